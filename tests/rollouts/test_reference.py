"""The sampler under the `irg` preset against the reference's own two-turn run, from the same random numbers.

The reference enlarges its small picture for the autoencoder before it looks at it again; the sampler, whose pictures
are as large as in training, does not. So what is seen of an image is made here.
"""

import pytest
import torch

from irg_rl.config import EvaluationRecipe, SamplingRecipe
from irg_rl.model.autoencoder import from_uint8
from irg_rl.model.folder import Folder, load_folder
from irg_rl.model.transforms import Resize, vit_patches
from irg_rl.trajectory import Prompt
from rollouts.images import ImageContext
from rollouts.noise import Noise, Use
from rollouts.request import Request
from rollouts.sampler import Sampler
from tests.golden import ROOT, golden
from tests.model.conftest import read_json

POINTS = 6  # of the stored run, in place of IRG's 50


@pytest.fixture(scope="module")
def bagel() -> Folder:
    return load_folder(ROOT / "bagel" / "checkpoint")


@pytest.fixture
def drawn(bagel, monkeypatch):
    """drawn(preset, first_image) -> images of the two turns, of two trajectories in one batch."""
    g, meta = golden("bagel/inference_irg"), read_json("meta")
    texts, vae = meta["texts"], bagel.autoencoder
    vae_resize, vit_resize = Resize(*meta["vae_transform"]), Resize(*meta["vit_transform"])

    def initial(self, use: Use, shape: tuple[int, ...], turn: int, step: int = 0) -> torch.Tensor:
        assert use is Use.INITIAL
        return g[f"turn{turn + 1}.init_noise"].view(shape)

    @torch.no_grad()
    def look(images, noises, turn) -> list[ImageContext]:
        resized = [vae_resize(image) for image in images]
        latents = [vae.sample(*vae.encode(from_uint8(image)[None]), eps=g["image1.vae_eps"]) for image in resized]
        return [ImageContext(vae.tokens(latent)[0], vae.grid(*enlarged.shape[:2]), *vit_patches(vit_resize(image), 14))
                for latent, enlarged, image in zip(latents, resized, images)]  # fmt: skip

    monkeypatch.setattr(Noise, "normal", initial)

    def call(preset: str, first_image=None) -> list[list[torch.Tensor]]:
        how = EvaluationRecipe(preset=preset)
        sampling = SamplingRecipe(
            turns=2, points=POINTS, shift=how.shift, image_size=tuple(meta["image_shape_hw"]), max_text_tokens=128,
            system_prompt=texts["system"],
        )  # fmt: skip
        sampler = Sampler(bagel.model.eval(), vae, bagel.tokenizer, sampling, guidance=how.guidance)
        monkeypatch.setattr(sampler.codec, "encode", look)
        prompt, given = Prompt("p", texts["prompt"]), {"think": texts["think1"], "reflections": {1: texts["think2"]}}
        requests = [Request(prompt, sample, first_image=first_image, **given) for sample in range(2)]
        return [[image.pixels for image in trajectory.images] for trajectory in sampler.sample(requests)]

    return call


def same(image: torch.Tensor, reference: torch.Tensor) -> bool:
    """But for rare bytes that round differently."""
    gap = (image.int() - reference.int()).abs()
    return gap.max() <= 1 and (gap > 0).float().mean() < 1e-2


def test_both_images_of_irgs_run_are_drawn_again(drawn):
    g = golden("bagel/inference_irg")
    for first, _ in drawn("irg"):
        assert same(first, g["turn1.image_uint8"])
    for _, second in drawn("irg", first_image=g["turn1.image_uint8"]):
        assert same(second, g["turn2.image_uint8"])


@pytest.mark.parametrize("preset", ["irg-paper", "bagel-t2i", "cfg-free"])
def test_another_preset_draws_another_refinement(drawn, preset):
    g = golden("bagel/inference_irg")
    first, second = drawn(preset, first_image=g["turn1.image_uint8"])[0]
    assert torch.equal(first, g["turn1.image_uint8"]) and not same(second, g["turn2.image_uint8"])


def test_the_first_image_of_bagels_preset_is_irgs(drawn):
    assert same(drawn("bagel-t2i")[0][0], golden("bagel/inference_irg")["turn1.image_uint8"])
