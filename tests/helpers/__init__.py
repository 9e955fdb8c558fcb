"""What tests share: tiny models, rows, jobs, configurations, and a copy of the workflow."""
