"""A trajectory scored again by one packed forward: the other side of "incremental equals packed".

Written from the layout's own primitives, independently of the sampler: text segments in a chain, every recorded
denoising step a noise block where its image was drawn, and with `history = last` each image continues the think text.
"""

import torch
from torch import Tensor

from irg_rl import flow
from irg_rl.config import NoiseRecipe, SamplingRecipe
from irg_rl.model.transforms import vit_patches
from irg_rl.trajectory import TextSegment, Trajectory
from tests.rollouts.conftest import Kit


@torch.no_grad()
def replay(kit: Kit, trajectory: Trajectory, sampling: SamplingRecipe, noise: NoiseRecipe) -> list[Tensor]:
    """Log-probabilities of every segment under one packed forward, in segment order."""
    builder = kit.model.pack_builder()
    eos = kit.tokenizer.special.eos
    parent = None
    if sampling.system_prompt:
        parent = builder.add_text(kit.tokenizer.encode(sampling.system_prompt))
    parent = builder.add_text(kit.tokenizer.encode(trajectory.prompt.text), parent)
    blocks: list = []
    think = None
    for segment in trajectory.segments:
        if isinstance(segment, TextSegment):
            ids = segment.ids[:-1] if segment.finished else segment.ids
            assert eos not in ids.tolist()
            parent = builder.add_text(ids, parent, loss=True, eos_target=segment.finished)
            think = parent if think is None else think
            blocks.append(parent)
        else:
            steps = zip(segment.x, segment.t.tolist())
            blocks.append([builder.add_noise(x, t, segment.grid, parent) for x, t in steps])
            origin = think if trajectory.history == "last" else parent
            patches, patch_grid = vit_patches(segment.pixels, kit.model.config.vit.patch_size)
            clean = builder.add_clean(segment.latent, segment.grid, origin)
            parent = builder.add_vit(patches, patch_grid, clean)
    pack = builder.build()
    output = kit.model(pack)
    logprobs = torch.log_softmax(output.logits / sampling.temperature, dim=-1)
    chosen = logprobs.gather(1, pack.logit_targets[:, None])[:, 0]
    second = flow.bagel_grid(sampling.points, sampling.shift)[1]
    scores = []
    for segment, block in zip(trajectory.segments, blocks):
        if isinstance(segment, TextSegment):
            scores.append(chosen[pack.logit_slices[block]])
        else:
            v = torch.stack([output.velocity[pack.velocity_slices[b]] for b in block])
            mean, std = flow.transition(
                segment.x, v, segment.t, segment.t_next, noise.noise_level, noise.kind, t_second=second
            )
            scores.append(flow.log_prob(segment.x_next, mean, std, kind=noise.kind))
    return scores
