"""Makes training data for small scorer models from the shapes world: pictures with captions, and pictures ranked by
quality.

The data use only prompts of the train split. A caption is used only if its set of constraints (the objects and
relations that it states) belongs to the train split, too.
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

PROMPTS = 4000  # number of train prompts from which the examples are made
RANKED = 4  # number of pictures of one prompt that are compared with each other
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
        """Return all words that occur in the prompts, sorted."""
        return sorted({word.strip(",.") for prompt in self.prompts for word in prompt.text.split()})

    def captioned(self, n: int) -> tuple[list[Pixels], list[str]]:
        """Return (pictures, captions): `n` pictures, and for each picture its own caption. All captions are different.
        Some pictures are blurred or noisy, like those that a model paints."""
        scenes, captions = self.scenes(n)
        return [self._painted(render(scene))[0] for scene in scenes], captions

    def scenes(self, n: int) -> tuple[list[Scene], list[str]]:
        """Return (scenes, captions): `n` scenes, and for each scene its own caption. All captions are different. Every
        second scene is a damaged copy of the scene before it, and its caption is true of the damaged copy. A
        contrastive batch needs such pairs as hard negatives."""
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
        """Return `n` rankings. A ranking has one prompt, several pictures for it, and two numbers for each picture: how
        much a simulated person likes it, and the checker's score. Each picture has zero to three defects and is clean,
        blurred or noisy."""
        return [self._ranking() for _ in range(n)]

    def _ranking(self) -> Ranking:
        prompt = self.rng.choice(self.prompts)
        scene = sample_scene(prompt.metadata, self.rng, distractor_share=0.2)
        pictures = [self._picture(scene, prompt, self.rng.choice(DEFECTS)) for _ in range(RANKED)]
        images, utilities, graded = zip(*pictures)
        liking = tuple(utility + LIKING_NOISE * self.rng.gauss(0, 1) for utility in utilities)
        return Ranking(prompt, images, liking, graded)

    def _picture(self, scene: Scene, prompt: Prompt, defects: int) -> tuple[Pixels, float, float]:
        """Return (picture, liking, score): a picture for the prompt with the given number of defects, how much a
        simulated person likes it, and the checker's score for it."""
        if self.rng.random() < 0.5:
            scene = sample_scene(prompt.metadata, self.rng, distractor_share=0.2)
        if defects:
            scene = corrupt(scene, prompt.metadata, self.rng, defects)
        graded = judge(scene_reading(scene), prompt.metadata).score
        image, quality = self._painted(render(scene))
        return image, CORRECTNESS * graded + QUALITY * quality, graded

    def _painted(self, image: Pixels) -> tuple[Pixels, float]:
        """Return (picture, quality). The returned picture is the given picture, unchanged, blurred or with noise. The
        quality is in [0, 1]. It is 1 if the picture is unchanged."""
        kind, strength = self.rng.choice(PAINTERS), self.rng.uniform(0.3, 1.0)
        if kind == "blurred":
            picture = PILImage.fromarray(image).filter(ImageFilter.GaussianBlur(1.2 * strength))
            return np.asarray(picture), 1 - strength
        if kind == "noisy":
            noise = np.random.default_rng(self.rng.getrandbits(64)).normal(0, 25 * strength, image.shape)
            return np.clip(image + noise, 0, 255).astype(np.uint8), 1 - strength
        return image, 1.0


def describe(scene: Scene, rng: random.Random) -> str | None:
    """Return a true sentence about the objects of a scene. It names their colours or leaves them out, at random. Return
    None if the scene is empty or has too many objects for a sentence. Also return None if a held-out prompt
    (validation, test or hard) asks for the same objects and relations as the sentence."""
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
