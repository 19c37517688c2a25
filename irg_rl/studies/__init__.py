"""Studies. Each study answers one question: it measures model checkpoints under many combinations of settings. This
package does not depend on the code for runs and commands: the caller passes the checkpoints, the prompts and the
judging functions in a `Bench` object."""

NAMES = ("turns", "influence", "credit", "schemes", "guidance", "recovery", "teacher", "modality", "modes")
"""Names of all studies. `catalog.py` maps the names to the classes. The names are listed here so that the command line
can show them without importing the classes."""
