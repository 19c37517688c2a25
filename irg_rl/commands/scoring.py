"""Scorers of a recipe as the rewards room wants them, with the embedded judge where no endpoint is named."""

from collections.abc import Iterator
from contextlib import contextmanager

from irg_rl.commands.run import Run
from irg_rl.config import ScorerRecipe
from rewards.judge_process import JudgeProcess


@contextmanager
def scorer_specs(run: Run) -> Iterator[list[dict]]:
    """Plain specs for a RewardHub. The embedded judge, if one is needed, lives as long as the context."""
    scorers = run.recipe.rewards.scorers
    if not any(s.kind == "judge" and s.base_url is None for s in scorers):
        yield [_spec(run, scorer, None) for scorer in scorers]
        return
    with JudgeProcess(seed=run.recipe.seed) as judge:
        yield [_spec(run, scorer, judge.base_url) for scorer in scorers]


def _spec(run: Run, scorer: ScorerRecipe, judge_url: str | None) -> dict:
    spec = {"name": scorer.name, "kind": scorer.kind, "weight": scorer.weight, "held_out": scorer.held_out}
    if scorer.kind == "judge":
        options = {
            "base_url": scorer.base_url or judge_url, "model": scorer.model, "timeout": scorer.timeout_s,
            "concurrency": scorer.concurrency, "api_key_env": scorer.api_key_env or "",
        }  # fmt: skip
    elif scorer.kind in ("clip", "hps"):
        options = {"path": scorer.path or str(run.path("scorers", scorer.kind))}
    else:
        options = {}
    return {**spec, "options": {**options, **scorer.options}}


def reward_weights(run: Run) -> dict[str, float]:
    """Weights of the scorers that make up the reward; held-out ones are not among them."""
    return {s.name: s.weight for s in run.recipe.rewards.scorers if not s.held_out}
