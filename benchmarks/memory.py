"""The plan's bytes beside those of real tensors: one step of the real engine on a model of about 200 M parameters.

    python -m benchmarks.memory

ZeRO stage 0, Muon and AdamW, fp32, one CPU thread; about 5 GB and two minutes. Every component must agree within 15 %.
The peak is that of a second step, on two packs: only then are there moments, and gradients beside the activations.
What the operating system gave the process is shown beside it: the allocator of the C library keeps what was freed.
"""

import os
import resource
import sys
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
from rich.table import Table

from irg_rl.config import Recipe, load_recipe
from irg_rl.driver.progress import console
from irg_rl.learner.ema import EMA
from irg_rl.learner.engine import Engine, Loss
from irg_rl.learner.replay import idle_pack
from irg_rl.model.footprint import LiveBytes, SavedBytes
from irg_rl.model.unified import UnifiedModel
from irg_rl.plan.costs import Plan
from irg_rl.plan.worst_case import SPECIAL, sft_pack
from sft.loss import Counts, sft_loss
from sft.packing import SFTPack
from sft.train import own_weights

PLACE = "sft stage1 learner"
TOLERANCE = 0.15
OVERRIDES = [
    "model.llm={hidden_size: 768, num_hidden_layers: 12, num_attention_heads: 12, num_key_value_heads: 4, "
    "intermediate_size: 2048, vocab_size: 16384}",
    "model.vit={hidden_size: 384, num_hidden_layers: 6, num_attention_heads: 6, intermediate_size: 1536, "
    "patch_size: 8, max_patches_per_side: 12}",
    "model.max_latent_size=12",
    "sampling.image_size=[96, 96]",
    "sft.base=null",
    "sft.stage1.tokens_per_pack=1600",
]


def measured(recipe: Recipe, plan: Plan) -> dict[str, int]:
    """Bytes of the tensors of one step on one pack, and at the highest point of a second one on two."""
    torch.set_num_threads(1)
    sft = recipe.sft
    assert sft is not None
    before = resident()
    model = UnifiedModel(recipe.model, SPECIAL)
    engine = Engine(model.train(), plan.trainings[PLACE], idle_pack(recipe.model, SPECIAL))
    optimizer = engine._engine.optimizer
    pack = sft_pack(recipe, sft.stages["stage1"])
    target = SFTPack(pack, torch.zeros(len(pack.velocity_index), recipe.model.latent_dim))
    counts = Counts.of([target])
    totals = {"text": counts.text, "latent": counts.latent}
    found: dict[str, int] = {"weights": size(model.state_dict().values())}
    saved = SavedBytes(model.state_dict().values())

    def loss(output, index: int, totals: dict[str, float]) -> Loss:
        found["activations"] = saved.total
        terms = sft_loss(output, target, counts, 1.0, 1.0)
        found["logits"] = output.logits.nbytes + saved.total - found["activations"]
        output.logits.register_hook(lambda gradient: found.update(logits=found["logits"] + gradient.nbytes))
        return Loss(terms)

    def plain(output, index: int, totals: dict[str, float]) -> Loss:
        return Loss(sft_loss(output, target, counts, 1.0, 1.0))

    def count_gradients(*_) -> None:
        found["gradients"] = size(p.grad for p in model.parameters() if p.grad is not None)

    hook = optimizer.register_step_pre_hook(count_gradients)
    with saved:
        engine.step([pack], loss, totals)
    hook.remove()
    found["optimizer moments"] = size(t for state in optimizer.state.values() for t in state.values())
    average = EMA(own_weights(engine), sft.ema_decay)
    found["average"] = size(average.weights.values())
    held = [*model.state_dict().values(), *average.weights.values()]
    held += [t for state in optimizer.state.values() for t in state.values()]
    with LiveBytes(held) as live:
        engine.step([pack, pack], plain, totals)
    found["peak"] = size(held) + live.peak
    found["process"] = resident() - before
    return found


def size(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def resident() -> int:
    """The most that this process has had in memory so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    recipe = load_recipe(Path(__file__).parents[1] / "configs" / "shapes.yaml", OVERRIDES)
    plan = Plan(recipe)
    place = plan.place(PLACE)
    planned = {component.name: component.bytes for component in place.components} | {"peak": place.peak}
    found = measured(recipe, plan)
    process = found.pop("process")
    ratios = {name: planned[name] / real for name, real in found.items()}
    count = plan.parameters[PLACE].total
    table = Table(
        "component", "planned, MB", "measured, MB", "planned / measured", title=f"{count / 1e6:.1f} M parameters"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for name, real in found.items():
        table.add_row(name, f"{planned[name] / 1e6:,.1f}", f"{real / 1e6:,.1f}", f"{ratios[name]:.3f}")
    table.caption = f"{place.note}; the process took {process / 1e6:,.0f} MB"
    console.print(table)
    if wrong := [name for name, ratio in ratios.items() if abs(ratio - 1) > TOLERANCE]:
        console.print(f"off by more than {TOLERANCE:.0%}: {', '.join(wrong)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
