"""Pictures with captions and ranked pictures, from the shapes world, for training the small scorers.

It uses only prompts of the train split, and sentences whose set of constraints belongs to this split.
"""

import random
from collections import Counter

import numpy as np
from PIL import Image as PILImage
from PIL import ImageFilter

from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.constraints import Relation, Thing
from irg_rl.shapes_world.prompts import make_prompts, phrase, split_of
from irg_rl.shapes_world.reading import scene_reading
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scene import RELATIONS, Scene, stands
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.task import Pixels, Ranking
from irg_rl.trajectory import Prompt

PROMPTS = 4000  # train prompts the scorers draw from
RANKED = 4  # pictures of one prompt that are compared with each other
DEFECTS = (0, 0, 1, 1, 2, 3)
# How much a simulated person likes a picture. Right content counts most, then the quality of the painting.
PAINTERS = ("clean", "clean", "blurred", "noisy")
CORRECTNESS, QUALITY, LIKING_NOISE = 8.0, 2.0, 0.7


class Examples:
    """A reproducible stream of training data. Two streams with the same seed are equal."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"scorers-{seed}")
        self.prompts = make_prompts(PROMPTS, "train", seed)

    def words(self) -> list[str]:
        """Every word of the prompts, sorted."""
        return sorted({word.strip(",.") for prompt in self.prompts for word in prompt.text.split()})

    def captioned(self, n: int) -> tuple[list[Pixels], list[str]]:
        """`n` pictures with different captions, some blurred or noisy, as a model paints them."""
        scenes, captions = self.scenes(n)
        return [self._painted(render(scene))[0] for scene in scenes], captions

    def scenes(self, n: int) -> tuple[list[Scene], list[str]]:
        """`n` scenes with different captions. Every second is a damaged copy of the right one before it, with a caption
        that is true of the copy: the hard negative a contrastive batch needs."""
        scenes: list[Scene] = []
        captions: list[str] = []
        while len(scenes) < n:
            prompt = self.rng.choice(self.prompts)
            scene = sample_scene(prompt.metadata, self.rng)
            wrong = corrupt(scene, prompt.metadata, self.rng, 1, clutter_share=0.0)
            caption = describe(wrong, self.rng)
            if caption is None or prompt.text in captions or caption in captions or caption == prompt.text:
                continue
            scenes += [scene, wrong]
            captions += [prompt.text, caption]
        return scenes[:n], captions[:n]

    def rankings(self, n: int) -> list[Ranking]:
        """`n` prompts with pictures of no, few or more defects, clean, blurred or noisy."""
        return [self._ranking() for _ in range(n)]

    def _ranking(self) -> Ranking:
        prompt = self.rng.choice(self.prompts)
        scene = sample_scene(prompt.metadata, self.rng, distractor_share=0.2)
        pictures = [self._picture(scene, prompt, self.rng.choice(DEFECTS)) for _ in range(RANKED)]
        images, utilities, graded = zip(*pictures)
        liking = tuple(utility + LIKING_NOISE * self.rng.gauss(0, 1) for utility in utilities)
        return Ranking(prompt, images, liking, graded)

    def _picture(self, scene: Scene, prompt: Prompt, defects: int) -> tuple[Pixels, float, float]:
        """A picture with this number of defects, how much a person likes it, and its score by the verifier."""
        if self.rng.random() < 0.5:
            scene = sample_scene(prompt.metadata, self.rng, distractor_share=0.2)
        if defects:
            scene = corrupt(scene, prompt.metadata, self.rng, defects)
        graded = judge(scene_reading(scene), prompt.metadata).score
        image, quality = self._painted(render(scene))
        return image, CORRECTNESS * graded + QUALITY * quality, graded

    def _painted(self, image: Pixels) -> tuple[Pixels, float]:
        """The picture painted well or badly, and the quality of the painting in [0, 1]."""
        kind, strength = self.rng.choice(PAINTERS), self.rng.uniform(0.3, 1.0)
        if kind == "blurred":
            picture = PILImage.fromarray(image).filter(ImageFilter.GaussianBlur(1.2 * strength))
            return np.asarray(picture), 1 - strength
        if kind == "noisy":
            noise = np.random.default_rng(self.rng.getrandbits(64)).normal(0, 25 * strength, image.shape)
            return np.clip(image + noise, 0, 255).astype(np.uint8), 1 - strength
        return image, 1.0


def describe(scene: Scene, rng: random.Random) -> str | None:
    """A true sentence about the scene, with or without colours. None if there is none, or if its set of constraints is
    not part of the train split."""
    colored = rng.random() < 0.7
    counts = Counter(Thing(seen.shape, seen.color if colored else None) for seen in scene.objects)
    includes = sorted(counts.items())
    if not includes or len(includes) > 4 or max(counts.values()) > 4:
        return None
    alone = [index for index, (_, count) in enumerate(includes) if count == 1]
    relations: list[Relation] = []
    if len(alone) > 1 and rng.random() < 0.5:
        a, b = rng.sample(alone, 2)
        cells = [next(seen.cell for seen in scene.objects if includes[i][0].fits(seen)) for i in (a, b)]
        relations = [Relation(a, name, b) for name in RELATIONS if stands(cells[0], name, cells[1])][:1]
    only_shapes = len(includes) == 2 and relations and not colored
    metadata = phrase("position" if only_shapes else "scene", includes, relations, rng)
    return metadata["prompt"] if split_of(metadata) == "train" else None
