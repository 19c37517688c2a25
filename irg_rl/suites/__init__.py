"""Official benchmarks: how each wants its images laid out, and how its result files are read.

A suite is one file here, or a class named by its import path. It knows nothing of models: `commands/suite_images.py`
draws what it asks for, the official evaluator (in an environment of its own) or a judge scores the images, and
`table.py` turns the scores into figures with intervals.
"""

NAMES = (
    "geneval", "geneval2", "geneval++", "wise", "wise-verified", "tiif", "genai-bench", "oneig-en", "imgedit",
    "t2i-compbench++", "dpg", "r3-bench",
)  # fmt: skip
"""Of all suites; `catalog` holds them. Here, so that the command line can list them without loading them."""
