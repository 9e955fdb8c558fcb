"""Measurements of cost and of attention."""
