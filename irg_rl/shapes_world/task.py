"""The shapes world in two roles. As a task, it gives prompts and verdicts for RL and evaluation. As a world, it also
makes all training data for a run that begins from scratch."""

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from irg_rl.config import Recipe, nearest
from irg_rl.shapes_world.base_rows import BASE_MODES
from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.constraints import TAGS, parse_metadata
from irg_rl.shapes_world.corpus import corpus
from irg_rl.shapes_world.following import following, reflection_truth
from irg_rl.shapes_world.prompts import SPLITS, make_prompts
from irg_rl.shapes_world.reading import PictureReading, read, read_batch
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.rows import IMPROVING_FULL, IMPROVING_GENERATION, MODES, RowMix, own_image_rows, write_mode
from irg_rl.shapes_world.rows import write_rows as write_rows_of_modes
from irg_rl.shapes_world.scene import WORLD
from irg_rl.shapes_world.scenes import crowded_scene, sample_scene
from irg_rl.shapes_world.scorer_examples import Examples
from irg_rl.shapes_world.settings import ShapesSettings
from irg_rl.shapes_world.statements import statements
from irg_rl.shapes_world.teacher import parse_reflection, reflection_correct, think_text
from irg_rl.task import Pixels, Thresholds, Verdict, World
from irg_rl.trajectory import Prompt, Statement


class ShapesWorld(World[ShapesSettings]):
    """The world of pictures with coloured shapes on a grid, as a task for RL and evaluation. Its checker judges every
    picture from the pixels, without a model."""

    settings_type = ShapesSettings
    splits = SPLITS
    thresholds = Thresholds(first_accuracy=0.40, damage=0.08, margin=0.15)
    mind = "irg_rl.shapes_world.judge_mind:answer"
    own_modes = (IMPROVING_FULL, IMPROVING_GENERATION)

    # --- as a task

    def prompts(self, split: str, count: int | None = None) -> list[Prompt]:
        own = self.settings
        made = {
            "train": own.train_prompts, "validation": own.validation_prompts, "test": own.test_prompts,
            "hard": own.hard_prompts,
        }  # fmt: skip
        return make_prompts(made[split] if count is None else count, split, self.seed, own.prompt_mix)

    def verdicts(self, images: list[Pixels], prompts: list[Prompt]) -> list[Verdict | None]:
        """Return one verdict per picture. The checker computes it from the pixels by fixed rules. A verdict is None in
        two cases: the picture has a wrong size, or the prompt asks for something that the shapes world does not
        have."""
        found: list[Verdict | None] = [None] * len(images)
        side = WORLD.pixels
        readable = [place for place, image in enumerate(images) if image.shape == (side, side, 3)]
        if len(readable) < len(images):
            self.last_error = f"a picture is not {side} x {side} pixels, the size of the shapes world"
        if not readable:
            return found
        for place, reading in zip(readable, read_batch(np.stack([images[i] for i in readable])), strict=True):
            try:
                found[place] = judge(reading, prompts[place].metadata)
            except (ValueError, AttributeError, TypeError, KeyError) as error:
                self.last_error = f"prompt {prompts[place].id!r}: {error}"
        return found

    def judges(self, prompt: Prompt) -> bool:
        if tuple(self.image_size) != (WORLD.pixels, WORLD.pixels):
            return False
        try:
            parse_metadata(prompt.metadata)
        except (ValueError, AttributeError, TypeError, KeyError):  # metadata of the user may be anything
            return False
        return True

    def check_reflection(self, text: str, image: Pixels, prompt: Prompt) -> bool | None:
        """Return whether the reflection `text` (a text about the errors of a picture) is true of the picture. If it
        says that nothing is to be changed, it is true if the picture is right. If it states defects, it is true if the
        checker finds all of them. A text that does not follow the grammar of reflections is not true. Return None if
        the checker cannot read the picture or the prompt."""
        if not self._can_read(prompt, image):
            return None
        return reflection_correct(parse_reflection(text), read(image), prompt.metadata)

    def truth(self, text: str, image: Pixels, prompt: Prompt) -> float | None:
        """Return how true the reflection `text` (a text about the errors of a picture) is of the picture, in [0, 1].
        The rules are the same as in `following.reflection_truth`. The score is graded, so that several reflections on
        one prompt can get different scores. Return None if the checker cannot read the picture or the prompt."""
        if not self._can_read(prompt, image):
            return None
        return reflection_truth(text, read(image), prompt.metadata)

    def statements(self, text: str, image: Pixels, prompt: Prompt) -> list[Statement] | None:
        """Return the single statements of the reflection `text`, each with the score 1 if it is true of the picture, or
        if the edit that it asks for would mend a defect, and 0 otherwise. Return None if the checker cannot read the
        picture or the prompt."""
        if not self._can_read(prompt, image):
            return None
        return statements(text, read(image), prompt.metadata)

    def following(self, text: str, before: Pixels, after: Pixels, prompt: Prompt) -> float | None:
        """Return how well the picture `after` follows the reflection `text` on the picture `before`: the share of the
        requested edits that are done, times the share of all other cells that stay the same (see
        `following.following`). Return None if the checker cannot read the pictures or the prompt."""
        if not self._can_read(prompt, before, after):
            return None
        return following(text, read(before), read(after))

    def _can_read(self, prompt: Prompt, *images: Pixels) -> bool:
        return self.judges(prompt) and all(image.shape == (WORLD.pixels, WORLD.pixels, 3) for image in images)

    def problems(self, recipe: Recipe) -> list[str]:
        own, side, size = self.settings, WORLD.pixels, recipe.sampling.image_size
        known = {
            "task_options.sft_rows": (own.sft_rows, (*MODES, *BASE_MODES)),
            "task_options.prompt_mix": (own.prompt_mix or {}, TAGS),
        }
        if recipe.rl is not None and recipe.rl.prompts is None:
            known["rl.prompt_mix"] = ([kind.partition("/")[0] for kind in recipe.rl.prompt_mix], TAGS)
        problems = [
            f"{setting}.{name}: unknown{nearest(name, names)}"
            for setting, (given, names) in known.items() for name in given if name not in names
        ]  # fmt: skip
        if recipe.sft is not None and recipe.sft.data is None and tuple(size) != (side, side):
            problems.append(f"sampling.image_size {list(size)}: pictures of the shapes world are {side} x {side}")
        if own.deep_share and recipe.sampling.history == "last":
            problems.append(
                f"task_options.deep_share {own.deep_share} makes rows with several refinements, of which "
                "sampling.history last samples none: set sampling.history=full or leave it out"
            )
        if recipe.evaluation.prompts > own.test_prompts:
            problems.append(
                f"evaluation.prompts {recipe.evaluation.prompts} is more than task_options.test_prompts "
                f"{own.test_prompts}"
            )
        return problems

    # --- as a world

    @property
    def rows(self) -> Mapping[str, int]:
        return self.settings.sft_rows

    @property
    def own_images(self) -> int:
        return self.settings.own_images

    @property
    def own_image_points(self) -> int:
        return self.settings.own_image_steps

    @property
    def _mix(self) -> RowMix:
        overlooked = {str(kind): share for kind, share in self.settings.overlooked.items()}
        return RowMix(deep_share=self.settings.deep_share, overlooked=overlooked)

    def write_rows(self, folder: Path, mode: str, prompts: Sequence[Prompt]) -> None:
        write_rows_of_modes(folder, prompts, {mode: self.rows[mode]}, self.seed, self._mix)

    def think_text(self, prompt: Prompt) -> str:
        return think_text(prompt.metadata)

    def write_own_rows(self, folder: Path, images: Sequence[Pixels], prompts: Sequence[Prompt]) -> None:
        rng = random.Random(self.seed)
        rows = own_image_rows(np.stack(images), prompts, rng, self.own_modes, self._mix)
        for mode, made in rows.items():
            write_mode(folder, mode, made)

    def texts(self) -> Iterable[str]:
        return corpus(seed=self.seed)

    def pictures(self, count: int, rng: random.Random) -> UInt8[np.ndarray, "N H W 3"]:
        return np.stack([render(crowded_scene(rng)) for _ in range(count)])

    def pictures_of(self, prompts: Sequence[Prompt], rng: random.Random) -> UInt8[np.ndarray, "N H W 3"]:
        return np.stack([render(sample_scene(prompt.metadata, rng)) for prompt in prompts])

    def reads_alike(self, images: UInt8[np.ndarray, "N H W 3"], rebuilt: UInt8[np.ndarray, "N H W 3"]) -> float:
        """Return the share of pictures in `images` that show the same objects as the picture at the same index of
        `rebuilt`. The pictures in `rebuilt` are, for example, the outputs of an autoencoder. Two objects are the same
        if shape, colour and cell are equal. Cells that are unreadable in the original picture are ignored."""
        pairs = zip(read_batch(images), read_batch(rebuilt), strict=True)
        return float(np.mean([_objects(a, a) == _objects(b, a) for a, b in pairs]))

    def scorer_examples(self, seed: int) -> Examples:
        return Examples(seed)


def _objects(reading: PictureReading, reference: PictureReading) -> set[tuple[str, str, str]]:
    """Return a set with one tuple (shape, colour, cell) for each object that was found in a picture. Objects in cells
    that are unreadable in another picture, `reference`, are left out."""
    return {(o.shape, o.color, o.cell) for o in reading.objects if o.cell not in reference.unclear}
