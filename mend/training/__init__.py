"""Training a method: losses, gradients, checkpoints, several processes."""
