"""lm-evaluation-harness with contexts: few-shot text becomes vectors, distilled once a set."""
