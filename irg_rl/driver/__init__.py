"""The driver: the main process of a run. It executes the stages of the run one after the other, from reading the recipe
to writing the report."""
