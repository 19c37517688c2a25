"""Suites: official benchmarks of image generation. A suite defines where the images of a benchmark are stored and how
its result files are read.

Each suite is a file in this package, or a class of the user that is named by its import path. Suites do not use models.
`commands/suite_images.py` draws the images. The official evaluator (in its own environment) or a judge scores them.
`table.py` turns the scores into figures (reported numbers) with intervals.
"""

NAMES = (
    "geneval", "geneval2", "geneval++", "wise", "wise-verified", "tiif", "genai-bench", "oneig-en", "imgedit",
    "t2i-compbench++", "dpg", "r3-bench",
)  # fmt: skip
"""Names of all suites. `catalog` maps them to their classes. They are listed here so that the command line can show
them without importing the suites."""
