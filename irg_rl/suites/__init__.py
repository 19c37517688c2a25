"""Suites: official benchmarks of image generation. For each benchmark, a suite defines where its images are stored and
how its result files are read.

Each suite is a class in a file of this package. Users can add classes of their own, which are named by their import
path. Suites do not use models: `commands/suite_images.py` draws the images. The images are scored by the official
evaluator (in its own environment) or by a judge. `table.py` turns the scores into the reported numbers with intervals.
"""

NAMES = (
    "geneval", "geneval2", "geneval++", "wise", "wise-verified", "tiif", "genai-bench", "oneig-en", "imgedit",
    "t2i-compbench++", "dpg", "r3-bench",
)  # fmt: skip
"""Names of all suites. `catalog.py` maps the names to the classes. The names are listed here so that the command line
can show them without importing the classes."""
