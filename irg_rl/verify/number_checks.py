"""Checks of what the model computes: the loss of plain English, what it sees in a picture, how its autoencoder draws a
picture again, and the velocity of a noisy picture.

For weights of the released sizes there are known limits (known.py). For all folders the numbers are kept, and compared
with those of the reference if there is one.
"""

import random
from math import log, log10

import torch
import torch.nn.functional as F
from torch import Tensor

from irg_rl.model.autoencoder import Autoencoder, from_uint8
from irg_rl.model.pack import Pack
from irg_rl.model.transforms import vit_patches
from irg_rl.model.unified import UnifiedModel
from irg_rl.task import Pixels
from irg_rl.verify.bench import Workbench
from irg_rl.verify.finding import Finding
from irg_rl.verify.known import LEAST_ORDER_GAIN, LEAST_PSNR, MOST_NATS, MOST_VELOCITY_ERROR
from irg_rl.verify.pictures import COLOURS, disc
from rollouts.images import vit_resize

PASSAGE = (
    "Four score and seven years ago our fathers brought forth on this continent, a new nation, conceived in Liberty, "
    "and dedicated to the proposition that all men are created equal. Now we are engaged in a great civil war, testing "
    "whether that nation, or any nation so conceived and so dedicated, can long endure."
)
"""The beginning of Lincoln's Gettysburg Address (1863), which every language model has read."""
QUESTION = "What colour is the circle in the image? Answer with one word."
FLOW_TIME = 0.5
KEPT = 16
"""How many single numbers of a large result are kept for later comparisons."""


def language(bench: Workbench, finding: Finding) -> None:
    """Compare the loss of a passage with the loss of its tokens in random order, and with chance."""
    held = bench.model()
    ids = held.tokenizer.encode(PASSAGE)
    shuffled = random.Random(0).sample(ids, len(ids))
    builder = held.model.pack_builder()
    for row in (ids, shuffled):
        builder.add_text(row, loss=True)
        builder.new_row()
    read, mixed = (float(nats.mean()) for nats in text_nats(held.model, builder.build()))
    chance = log(held.model.config.llm.vocab_size)
    finding.facts |= {"tokens": str(len(ids)), "chance": f"{chance:.2f} nats per token"}
    known, gain = bench.is_known, mixed - read
    finding.require_if(known, "loss of plain English", f"{read:.2f} nats per token", f"at most {MOST_NATS:g}",
                       read <= MOST_NATS)  # fmt: skip
    finding.require_if(known, "the order of words matters", f"{gain:.2f} nats per token",
                       f"at least {LEAST_ORDER_GAIN:g}", gain >= LEAST_ORDER_GAIN)  # fmt: skip
    bench.keep(finding, "losses", [read, mixed])


def vision(bench: Workbench, finding: Finding) -> None:
    """Show discs of several colours, and compare the loss of each colour's name as the answer."""
    held, size = bench.model(), bench.recipe.sampling.image_size
    model, encode, names = held.model, held.tokenizer.encode, list(COLOURS)
    builder = model.pack_builder()
    resize, patch = vit_resize(model.config), model.config.vit.patch_size
    for shown in names:
        patches, grid = vit_patches(resize(torch.from_numpy(disc(shown, size))), patch)
        for name in names:
            question = builder.add_text(encode(QUESTION), builder.add_vit(patches, grid))
            builder.add_text(encode(name), question, loss=True)
            builder.new_row()
    nats = torch.stack([one.sum() for one in text_nats(model, builder.build())]).view(len(names), len(names))
    right = int((nats.argmin(1) == torch.arange(len(names))).sum())
    all_right = right == len(names)
    finding.require_if(bench.is_known, "colours that are recognised", f"{right} of {len(names)}", "all", all_right)
    bench.keep(finding, "losses of answers", nats.flatten().tolist())
    finding.pictures += [(name, disc(name, size)) for name in names]


@torch.no_grad()
def autoencoder(bench: Workbench, finding: Finding) -> None:
    """Encode a picture, decode it, and measure how much of it comes back."""
    vae, picture = bench.model().autoencoder, disc("red", bench.recipe.sampling.image_size)
    latent = mean_latent(vae, picture)
    decoded = vae.decode(latent).float().cpu().clamp(-1, 1)
    wanted = from_uint8(torch.from_numpy(picture))[None]
    psnr = 10 * log10(4 / max(float((decoded - wanted).square().mean()), 1e-10))
    finding.facts["spread of the latents"] = f"{float(latent.std()):.3f}, about 1 in training"
    what, expected = "quality of the picture that comes back", f"at least {LEAST_PSNR:g} dB"
    finding.require_if(bench.is_known, what, f"{psnr:.1f} dB", expected, psnr >= LEAST_PSNR)
    bench.keep(finding, "latents", _some(latent))
    bench.keep(finding, "pixels", _some(decoded))
    again = ((decoded[0].movedim(0, -1) + 1) * 127.5).to(torch.uint8).numpy()
    finding.pictures += [("given", picture), ("came back", again)]


@torch.no_grad()
def velocity(bench: Workbench, finding: Finding) -> None:
    """Compute the velocity of a noisy picture after its prompt, and compare it with the true one."""
    held, size = bench.model(), bench.recipe.sampling.image_size
    vae, device = held.autoencoder, bench.recipe.engine.device
    clean = vae.tokens(mean_latent(vae, disc("red", size))).float().cpu()[0]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    builder = held.model.pack_builder()
    prompt = builder.add_text(held.tokenizer.encode("a red disc on a grey background"))
    builder.add_noise((1 - FLOW_TIME) * clean + FLOW_TIME * noise, FLOW_TIME, vae.grid(*size), prompt)
    found = held.model(builder.build().to(device)).velocity.float().cpu()
    true = noise - clean
    error = float((found - true).square().sum() / true.square().sum())
    finding.require_if(bench.is_known, "error of the velocity", f"{error:.3f} of its energy",
                       f"at most {MOST_VELOCITY_ERROR:g}", error <= MOST_VELOCITY_ERROR)  # fmt: skip
    finding.require("not zero everywhere", f"{float(found.abs().max()):.3g} at most", "above 0", bool(found.any()))
    bench.keep(finding, "velocity", _some(found))


@torch.no_grad()
def text_nats(model: UnifiedModel, pack: Pack) -> list[Tensor]:
    """Return the cross-entropy of every label of a pack in nats, as one tensor for each text with a loss."""
    device = model.latent_pos_embed.pos_embed.device
    logits = model(pack.to(device)).logits.float()
    nats = F.cross_entropy(logits, pack.logit_targets.to(device), reduction="none").cpu()
    return [nats[part] for part in pack.logit_slices.values() if nats[part].numel()]


@torch.no_grad()
def mean_latent(vae: Autoencoder, picture: Pixels) -> Tensor:
    """Return the scaled latent [1, C, h, w] of a picture. It is the mean of the distribution of latents, so it is
    always the same."""
    weight = next(vae.parameters())
    mean, _ = vae.encode(from_uint8(torch.from_numpy(picture))[None].to(weight))
    return vae.scale(mean)


def _some(values: Tensor) -> list[float]:
    """Return KEPT numbers from all parts of a tensor, and the root of its mean square."""
    flat = values.detach().float().cpu().flatten()
    places = torch.linspace(0, len(flat) - 1, KEPT).long()
    return [*flat[places].tolist(), float(flat.square().mean().sqrt())]
