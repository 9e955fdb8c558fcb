"""The configuration: typed, checked and completed; runs, studies, and what each job is told."""
