"""Scorers of a recipe as the rewards room wants them, with the embedded judge where no endpoint is named."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from irg_rl.config import ScorerRecipe
from irg_rl.driver.run_folder import Run
from rewards.judge_process import JudgeProcess


@contextmanager
def scorer_specs(run: Run) -> Iterator[list[dict]]:
    """Plain specs for a RewardHub. The embedded judge, if one is needed, lives as long as the context."""
    scorers, trained = run.recipe.rewards.scorers, run.path("scorers")
    if not any(s.kind == "judge" and s.base_url is None for s in scorers):
        yield [spec_of(scorer, trained) for scorer in scorers]
        return
    with JudgeProcess(seed=run.recipe.seed) as judge:
        yield [spec_of(scorer, trained, judge.base_url) for scorer in scorers]


def spec_of(scorer: ScorerRecipe, trained: Path, judge_url: str | None = None) -> dict:
    """`trained`: folder of the scorers that the run trains for itself; `judge_url`: address of the embedded judge."""
    spec = {"name": scorer.name, "kind": scorer.kind, "weight": scorer.weight, "held_out": scorer.held_out}
    if scorer.kind == "judge":
        options = {
            "base_url": scorer.base_url or judge_url, "model": scorer.model, "timeout": scorer.timeout_s,
            "concurrency": scorer.concurrency, "api_key_env": scorer.api_key_env or "",
        }  # fmt: skip
    elif scorer.kind in ("clip", "hps"):
        options = {"path": scorer.path or str(trained / scorer.kind)}
    else:
        options = {}
    return {**spec, "options": {**options, **scorer.options}}
