"""Data sets of natural-looking images of 64 pixels, with images, judges and prompts that are not as they should be."""

import pytest

from irg_rl.data.build import build
from irg_rl.data.drawing import Draft
from irg_rl.errors import InputError
from irg_rl.learning_modes import IMPROVING, IMPROVING_FULL, INITIAL
from irg_rl.prompts import write_prompts
from irg_rl.trajectory import Prompt
from sft.rows import ImagePart
from tests.data.material import built, counts, landscapes, lines, rows, save, write_recipe
from tests.data.servers import PLAN, Erring, landscape, landscape_server
from tests.sft.material import encoder


def test_landscapes_give_rows_in_irgs_template(tmp_path, world):
    depths = [0.95 if number % 3 == 0 else 0.35 for number in range(12)]
    prompts = landscapes(tmp_path, depths, landscape)
    better = {prompt.id: landscape(seed, 0.9) for seed, prompt in enumerate(prompts)}
    save(tmp_path / "better", better)
    with landscape_server(Erring(mistakes=0.2), good=40) as (url, _):
        recipe = write_recipe(
            tmp_path, teacher={"base_url": url, "tries": 4},
            keep={"judge": {"base_url": url, "model": "judge", "logprobs": False}},
            improve={"by": "folder", "folder": str(tmp_path / "better")}, rows={"prompts_per_part": 5, "stop_share": 1},
        )  # fmt: skip
        built(recipe)
    full = rows(tmp_path, IMPROVING_FULL)
    assert len(full) == 12 and sum(len(row) == 5 for row in full) == 8
    improved = next(row for row in full if len(row) == 5)
    assert improved[3].text.startswith("<think> The picture shows hills") and "### Step-by-Step" in improved[3].text
    assert improved[1].text.startswith(f"<think> {PLAN}") and improved[2].pixels.shape == (64, 64, 3)
    assert len(encoder(world).encode([improved])) == 1
    assert counts(tmp_path)["rows"] == dict.fromkeys(INITIAL, 12) | {
        IMPROVING[0]: 12, IMPROVING[1]: 12, IMPROVING[2]: 12
    }  # fmt: skip


def test_a_judge_that_refuses_half_of_the_questions_loses_nothing(tmp_path):
    landscapes(tmp_path, [0.95] * 8, landscape)
    options = {"improve": {"by": "none"}, "rows": {"stop_share": 1}}
    with landscape_server(Erring(), good=40, refuses=lambda number: number % 2 == 0) as (url, _):
        keep = {"judge": {"base_url": url, "model": "judge", "logprobs": False}}
        recipe = write_recipe(tmp_path, teacher={"base_url": url}, keep=keep, concurrency=1, **options)
        first = built(recipe)
        assert 0 < len({left.prompt for left in first.total.waiting}) < 8
        refused = [line for line in lines(tmp_path) if line["reason"] == "no answer of the judge"]
        assert refused and "I cannot judge this" in refused[0]["detail"]
        some = counts(tmp_path)["rows"][IMPROVING[1]]
        calls = [built(recipe).open_parts for _ in range(6)]
    assert calls[-1] == 0 and 0 < some < 8 == counts(tmp_path)["rows"][IMPROVING[1]]
    assert lines(tmp_path) == []
    assert counts(tmp_path)["asked"]["judge"]["failed"] > 0


def test_holes_in_the_image_folder_are_named_and_can_be_filled(tmp_path):
    landscapes(tmp_path, [0.95] * 6, landscape)
    images = tmp_path / "images"
    whole = (images / "valley1.png").read_bytes()
    (images / "valley1.png").unlink()
    (images / "valley2.png").write_bytes(whole[:200])
    save(images, {"valley3": landscape(3, 0) * 0 + 200})
    (images / "valley5.png").write_bytes((images / "valley4.png").read_bytes())
    with landscape_server(Erring(), good=40) as (url, requests):
        keep = {"judge": {"base_url": url, "model": "judge"}}
        recipe = write_recipe(tmp_path, teacher={"base_url": url}, keep=keep, rows={"stop_share": 1})
        assert built(recipe).open_parts == 1
        assert [(line["prompt"], line["reason"]) for line in lines(tmp_path)] == [
            ("valley3", "one colour only"), ("valley5", "is the image of another prompt"),
            ("valley1", "missing file"), ("valley2", "broken image"),
        ]  # fmt: skip
        asked = len(requests)
        save(images, {name: landscape(seed, 0.95) for seed, name in enumerate(("valley1", "valley2"), 10)})
        assert built(recipe).open_parts == 0
        assert counts(tmp_path)["rows"][INITIAL[0]] == 4
        assert len(requests) == 2 * asked, "prompts that had an image are not asked about again"


def test_a_folder_without_any_image_is_refused_before_anything_is_asked(tmp_path):
    landscapes(tmp_path, [0.5], landscape)
    recipe = write_recipe(
        tmp_path, teacher={"base_url": "http://127.0.0.1:9/v1"}, keep={"judge": {"base_url": "http://127.0.0.1:9/v1"}},
        images={"name": "{line:05d}/samples/00000.png"},
    )  # fmt: skip
    with pytest.raises(InputError, match="no image of any prompt; the first would be .*00000/samples/00000.png"):
        built(recipe)
    assert not (tmp_path / "out").exists()


def test_prompts_of_a_benchmark_and_repeated_prompts_are_not_used(tmp_path):
    prompts = landscapes(tmp_path, [0.95] * 3, landscape)
    again = Prompt("again", prompts[0].text.upper() + " !")
    write_prompts(tmp_path / "prompts.jsonl", [*prompts, again])
    write_prompts(tmp_path / "bench.jsonl", [Prompt("b", prompts[1].text)])
    with landscape_server(Erring(), good=40) as (url, _):
        recipe = write_recipe(
            tmp_path, teacher={"base_url": url}, keep={"judge": {"base_url": url, "model": "judge"}},
            prompts={"exclude": [str(tmp_path / "bench.jsonl")]}, rows={"stop_share": 1},
        )  # fmt: skip
        built(recipe)
    named = [(line["prompt"], line["reason"], line["detail"]) for line in lines(tmp_path)]
    assert named == [("valley1", "is excluded", "bench.jsonl"), ("again", "has the words of another", "valley0")]
    assert counts(tmp_path)["rows"][INITIAL[1]] == 2


def test_tokens_are_counted_and_bounded(tmp_path):
    landscapes(tmp_path, [0.95] * 8, landscape)
    with landscape_server(Erring(), good=40) as (url, _):
        recipe = write_recipe(
            tmp_path, teacher={"base_url": url}, keep={"judge": {"base_url": url, "model": "judge"}}, concurrency=1,
            budget={"tokens": 1000},
        )  # fmt: skip
        done = built(recipe)
    asked = counts(tmp_path)["asked"]
    assert "budget.tokens=1000 is spent" in done.spent
    assert asked["teacher"]["tokens"] + asked["judge"]["tokens"] == 1000 == 100 * done.calls


def test_two_builds_in_one_folder_are_refused(tmp_path):
    landscapes(tmp_path, [0.95], landscape)
    recipes, reasons = [], []

    def meanwhile(number: int) -> bool:
        """Begin the same build again while the first one waits for the judge."""
        with pytest.raises(InputError) as refusal:
            built(recipes[0])
        reasons.append(str(refusal.value))
        return False

    with landscape_server(Erring(), good=40, refuses=meanwhile) as (url, _):
        keep = {"judge": {"base_url": url, "model": "judge"}}
        recipes.append(write_recipe(tmp_path, teacher={"base_url": url}, keep=keep))
        built(recipes[0])
    assert reasons and all("another process builds it" in reason for reason in reasons)


# --- a model draws


class Doodler:
    """A painter without a model: it draws what it is told by number, and says how often it was asked."""

    def __init__(self) -> None:
        self.drawn = 0

    def first(self, prompts):
        self.drawn += len(prompts)
        think = "<think> hills and sky </think>"
        return [Draft(landscape(int(p.id[6:]), 0.35), think, p.id != "valley2") for p in prompts]

    def improved(self, asked):
        self.drawn += len(asked)
        assert all(one.think.startswith("<think> ") and one.reflection.startswith("<think> ") for one in asked)
        return [landscape(int(one.prompt.id[6:]), 0.9) for one in asked]


def test_a_model_that_draws_gives_its_own_plan_and_draws_nothing_twice(tmp_path):
    landscapes(tmp_path, [0.3] * 4, landscape)
    doodler = Doodler()
    with landscape_server(Erring(), good=40) as (url, _):
        keep = {"judge": {"base_url": url, "model": "judge", "logprobs": False}}
        recipe = write_recipe(
            tmp_path, teacher={"base_url": url}, keep=keep, improve={"by": "model"},
            images={"folder": None, "model": "M"},
        )  # fmt: skip
        build(recipe, lambda target: doodler, lambda number: None)
        assert doodler.drawn == 8
        next((tmp_path / "out" / "parts").glob("*.json")).unlink()
        (tmp_path / "out" / "first" / "000001.png").write_bytes(b"\x89PNG half")
        build(recipe, lambda target: doodler, lambda number: None)
        assert doodler.drawn == 9, "only the broken file is drawn again"
    full = rows(tmp_path, IMPROVING_FULL)
    plans = [row[1].text for row in full]
    assert plans.count("<think> hills and sky </think>") == 3 and plans[2].startswith(f"<think> {PLAN}")
    assert all(isinstance(row[-1], ImagePart) and row[-1].target for row in full)
