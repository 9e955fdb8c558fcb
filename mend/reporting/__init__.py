"""Tables, figures and pages, from what jobs wrote."""
