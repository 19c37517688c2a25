"""The built-in world of coloured shapes. It has random scenes, a renderer, a checker that judges pictures, a teacher
that writes texts for training, and functions that make training rows.

This package does not depend on any model.
"""

from irg_rl.shapes_world.check import Check, Defect, DefectKind, Inspection, judge
from irg_rl.shapes_world.constraints import Thing, parse_metadata
from irg_rl.shapes_world.corpus import corpus
from irg_rl.shapes_world.edits import Edit, EditKind, apply_edits, plan_edits
from irg_rl.shapes_world.prompts import SPLITS, make_prompts, split_of
from irg_rl.shapes_world.reading import PictureReading, read, read_batch, scene_reading
from irg_rl.shapes_world.render import render, render_cell
from irg_rl.shapes_world.rows import MODES, RowMix, own_image_rows, write_mode, write_rows
from irg_rl.shapes_world.scene import CELLS, COLORS, SHAPES, WORLD, Object, Scene, WorldConfig
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.shapes_world.teacher import (
    STOP,
    ParsedReflection,
    is_stop,
    parse_reflection,
    reflect,
    reflection_correct,
    reflection_text,
    think_text,
)

__all__ = [
    "CELLS", "COLORS", "MODES", "SHAPES", "SPLITS", "STOP", "WORLD",
    "Check", "Defect", "DefectKind", "Edit", "EditKind", "Inspection", "Object", "ParsedReflection", "PictureReading",
    "RowMix", "Scene", "Thing", "WorldConfig",
    "apply_edits", "corpus", "corrupt", "is_stop", "judge", "make_prompts", "own_image_rows", "parse_metadata",
    "parse_reflection", "plan_edits", "read", "read_batch", "reflect", "reflection_correct",
    "reflection_text", "render", "render_cell", "sample_scene", "scene_reading", "split_of", "think_text", "write_mode",
    "write_rows",
]  # fmt: skip
