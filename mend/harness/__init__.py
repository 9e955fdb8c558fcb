"""Contexts in lm-evaluation-harness."""
