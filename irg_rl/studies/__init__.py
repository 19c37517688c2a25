"""Studies: grids of measurements that answer one question each. They know nothing of runs and commands; whoever starts
one hands over its subjects, prompts and measures as a `Bench`."""

NAMES = ("turns", "influence", "credit", "schemes", "guidance", "recovery", "teacher", "modality", "modes")
"""Of all studies; `catalog` holds them. Here, so that the command line can list them without loading them."""
