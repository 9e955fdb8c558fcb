"""What is only speed: faster ways of the same numbers."""
