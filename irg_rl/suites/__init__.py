"""Official benchmarks: the layout of images that each needs, and how its result files are read.

A suite is one file here, or a class named by its import path. It does not use models. `commands/suite_images.py` draws
the images. The official evaluator (in its own environment) or a judge scores them. `table.py` turns the scores into
figures with intervals.
"""

NAMES = (
    "geneval", "geneval2", "geneval++", "wise", "wise-verified", "tiif", "genai-bench", "oneig-en", "imgedit",
    "t2i-compbench++", "dpg", "r3-bench",
)  # fmt: skip
"""Names of all suites; `catalog` has the suites. They stand here so that the command line lists them without
imports."""
