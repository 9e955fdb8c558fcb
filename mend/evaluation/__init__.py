"""Scores: of options, of tasks, and what they say together."""
