"""Studies. Each study answers one question with a grid of measurements. This package knows nothing of runs and
commands: the caller passes the checkpoints, the prompts and the judging functions in a `Bench`."""

NAMES = ("turns", "influence", "credit", "schemes", "guidance", "recovery", "teacher", "modality", "modes")
"""Names of all studies. `catalog` maps them to their classes. They are listed here so that the command line can show
them without importing the studies."""
