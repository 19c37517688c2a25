"""Trajectories of the model itself as rows of stage 2: the tiny model draws, a judge over HTTP compares."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irg_rl.config import OWN_REFINED, changed_recipe
from irg_rl.driver.own_trajectories import draw_refined
from irg_rl.driver.run_folder import Run, RunError
from rewards.base import ScorerUnavailable
from sft.dataset import Rejections, RowSource
from sft.rows import ImagePart, TextPart
from tests.driver.begun import PROMPTS, STAGE, begun_run
from tests.rewards.servers import completion, endpoint

COUNT = 20


def brightness(part: dict) -> float:
    encoded = part["image_url"]["url"].partition(",")[2]
    return float(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).mean())


def prefers_the_brighter(number: int, body: dict):
    seen = [brightness(part) for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    if len(seen) == 1:
        return 200, completion("yes"), 0.0
    return 200, completion("1" if seen[0] > seen[1] else "2"), 0.0


def answers(word: str):
    """A judge that finds every image right and gives one answer about every pair."""
    return lambda number, body: (
        (200, completion("yes" if "yes or no" in str(body) else word), 0.0) if word else (400, "no", 0.0)
    )


def begun(world, folder: Path, judge: str, **own) -> Run:
    sft = {
        "data": str(folder / "rows"), "stage1": STAGE, "validation_rows": 2,
        "stage2": STAGE | {"sources": [{"folder": "mode"}, {"folder": OWN_REFINED}]},
        "own": {"count": COUNT, "judge": "judge"} | own,
    }  # fmt: skip
    return begun_run(
        world, folder, sft=sft, sampling={"image_size": [16, 16], "points": 3, "max_text_tokens": 12},
        evaluation={"temperature": 1.0, "batch_size": 8, "turns": 2},
        rewards={"scorers": [{"name": "judge", "kind": "judge", "base_url": judge, "options": {"retries": 0}}]},
        rl=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn(world, tmp_path_factory) -> tuple[Run, dict]:
    with endpoint(prefers_the_brighter) as (judge, _):
        run, facts = begun(world, tmp_path_factory.mktemp("own"), judge), {}
        draw_refined(run, "base", facts)
    return run, facts


def rows_of(run: Run) -> list[tuple]:
    """All rows, in the order in which they are drawn."""
    source, found = RowSource(run.path("world", "rows") / OWN_REFINED, 0, Rejections()), []
    while source.epoch == 0:
        found.append(source.draw())
    return found[:-1]


def test_a_row_teaches_a_reflection_and_a_refined_image_that_is_preferred(drawn):
    run, facts = drawn
    rows = rows_of(run)
    assert len(rows) == facts["preferred"] > 1
    for prompt, think, first, reflection, refined in rows:
        assert prompt.text in [known.text for known in PROMPTS] and isinstance(reflection, TextPart)
        assert [part.loss for part in (prompt, think, reflection)] == [False, False, True]
        assert isinstance(first, ImagePart) and (first.target, first.vae, first.vit) == (False, True, True)
        assert (refined.target, refined.vae, refined.vit) == (True, False, False)
        assert refined.pixels.mean() > first.pixels.mean()


def test_every_trajectory_is_counted_once(drawn):
    _, facts = drawn
    kinds = {"preferred", "tied", "worse", "stopped", "cut off", "without an answer"}
    assert facts["trajectories"] == COUNT == sum(facts.get(kind, 0) for kind in kinds)
    assert facts["worse"] > 0 and facts["cut off"] > 0  # neither is among the rows


def test_an_interrupted_drawing_goes_on_with_the_parts_that_are_missing(drawn, tmp_path):
    run, facts = drawn
    file = run.path("world", "rows") / OWN_REFINED / "part-00000.parquet"
    parts = sorted(run.path("world", "own_trajectories").glob("*.json"))
    before, times = file.read_bytes(), [part.stat().st_mtime_ns for part in parts]
    assert len(parts) == 3
    file.unlink()
    parts[1].unlink()
    with endpoint(prefers_the_brighter) as (judge, _):
        scorers = [{"name": "judge", "kind": "judge", "base_url": judge}]
        resumed = Run(run.folder, changed_recipe(run.recipe, {"rewards.scorers": scorers}, "run"))
        again: dict = {}
        draw_refined(resumed, "base", again)
    assert file.read_bytes() == before and again == facts
    after = [part.stat().st_mtime_ns for part in parts]
    assert [old == new for old, new in zip(times, after)] == [True, False, True]


@pytest.mark.parametrize(("word", "says"), [
    ("1", "only 0 of 20 trajectories became rows"),  # in both orders the first one: all ties
    ("perhaps", "the judge answered about none of"),
])  # fmt: skip
def test_a_judge_that_prefers_nothing_or_says_nothing_ends_the_stage(world, tmp_path, word, says):
    with endpoint(answers(word)) as (judge, _):
        run = begun(world, tmp_path, judge)
        with pytest.raises(RunError, match=says):
            draw_refined(run, "base", {})
    assert not (run.path("world", "rows") / OWN_REFINED).exists()
    parts = list(run.path("world", "own_trajectories", "x").parent.glob("*.json"))
    assert bool(parts) == (word == "1")  # what was not judged is drawn again


def test_a_judge_that_is_not_there_is_said_before_anything_is_drawn(world, tmp_path):
    with endpoint(answers("")) as (judge, requests):
        run = begun(world, tmp_path, judge)
        with pytest.raises(ScorerUnavailable, match="400"):
            draw_refined(run, "base", {})
    assert len(requests) == 1


def test_a_part_that_is_no_part_is_named(drawn, tmp_path, world):
    with endpoint(prefers_the_brighter) as (judge, _):
        run = begun(world, tmp_path, judge, count=8)
        run.path("world", "own_trajectories", "part-00000.json").write_text(json.dumps([1]))
        with pytest.raises(RunError, match=r"part-00000\.json holds no trajectories: remove it and resume"):
            draw_refined(run, "base", {})
