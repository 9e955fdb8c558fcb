"""The tables that are no studies."""
