"""The driver: the stages of a run, and everything they need between a recipe and a report."""
