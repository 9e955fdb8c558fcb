"""Methods of in-context learning: one file for each, which holds all that is its own."""
