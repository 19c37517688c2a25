"""The driver: it runs the stages of a run, from the recipe to the report."""
