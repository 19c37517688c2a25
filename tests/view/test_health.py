"""Which metrics of RL are called healthy."""

import pytest

from irg_rl.evaluate.health import headline, health, in_order, scorer_failures, seconds_by_part, series
from irg_rl.view.group_health import health_of_groups
from irg_rl.view.groups import StoredGroup


def rows(**values: list[float]) -> list[dict]:
    count = max(map(len, values.values()))
    return [
        {"stage": "rl", "step": step + 1, **{name.replace("__", "/"): found[step] for name, found in values.items()}}
        for step in range(count)
    ]


def status(title: str, **values: list[float]) -> str:
    return next(line.status for line in health(series(rows(**values))) if line.title == title)


@pytest.mark.parametrize(("title", "name", "values", "expected"), [
    ("Groups with a spread in reward", "drawn__spread", [0.6] * 10, "good"),
    ("Groups with a spread in reward", "drawn__spread", [0.9] * 10 + [0.3] * 10, "warn"),
    ("Groups with a spread in reward", "drawn__spread", [0.9] * 10 + [0.1] * 10, "bad"),
    ("Entropy of texts", "text__turn1__entropy", [2.0] * 20, "good"),
    ("Entropy of texts", "text__turn1__entropy", [2.0] * 10 + [0.9] * 10, "warn"),
    ("Entropy of texts", "text__turn1__entropy", [2.0] * 10 + [0.1] * 10, "bad"),
    ("Approximate KL", "image__turn0__approx_kl", [0.001] * 5, "good"),
    ("Approximate KL", "image__turn0__approx_kl", [0.05] * 5, "warn"),
    ("Share of clipped ratios", "text__turn0__clipfrac", [0.5] * 5, "bad"),
    ("Largest ratio", "text__turn0__ratio_max", [1.0] * 4 + [20.0], "bad"),
    ("Gradient norm per expert", "grad_norm__und", [0.1] * 5, "good"),
    ("Gradient norm per expert", "grad_norm__und", [0.1] * 5 + [2.0], "warn"),
    ("Gradient norm per expert", "grad_norm__und", [0.1] * 5 + [0.0], "bad"),
    ("Largest step of a weight", "step__largest", [1e-6], "bad"),
    ("Largest step of a weight", "step__largest", [1e-6, 1e-2], "good"),
    ("Skipped updates", "skipped", [0.0] * 5, "good"), ("Skipped updates", "skipped", [0.0] * 9 + [1.0], "warn"),
    ("Trajectories stopped", "stopped", [0.0] * 5, "warn"), ("Trajectories stopped", "stopped", [0.4] * 5, "good"),
    ("Trajectories stopped", "stopped", [1.0] * 5, "warn"),
    ("Text tokens per trajectory", "text_tokens", [50.0] * 5 + [120.0] * 10, "warn"),
    ("Dropped samples", "dropped_samples", [0.0] * 5, "good"),
    ("Dropped samples", "dropped_samples", [20.0] * 5, "bad"),
])  # fmt: skip
def test_every_threshold_has_two_sides(title, name, values, expected):
    assert status(title, **{name: values}) == expected


def test_the_worst_turn_decides_about_a_clip_share():
    assert status("Share of clipped ratios", text__turn0__clipfrac=[0.0] * 3, image__turn1__clipfrac=[0.9] * 3) == "bad"


def test_an_expert_without_gradients_is_found_beside_others():
    assert status("Gradient norm per expert", grad_norm__und=[0.2] * 3, grad_norm__gen=[0.0] * 3) == "bad"


@pytest.mark.parametrize(
    ("images", "stopped", "expected"), [(1.0, 0.0, "missing"), (1.0, 1.0, "warn"), (2.0, 0.0, "warn")]
)
def test_rl_of_one_image_is_not_asked_for_refinement(images, stopped, expected):
    found = rows(images=[images] * 3, stopped=[stopped] * 3, grad_norm__und=[0.1] * 3, grad_norm__vision=[0.0] * 3)
    lines = {line.title: line.status for line in health(series(found))}
    assert lines["Trajectories stopped"] == expected
    assert lines["Gradient norm per expert"] == ("good" if expected == "missing" else "bad")


def test_a_number_that_is_not_logged_is_named_and_not_guessed():
    lines = {line.title: line for line in health(series(rows(stopped=[0.5])))}
    assert lines["Entropy of texts"].status == "missing" and "text/turnK/entropy" in lines["Entropy of texts"].words
    assert lines["Trajectories stopped"].status == "good"
    assert headline([]) == ("missing", "RL has not logged an update yet.")


def test_what_needs_a_look_stands_first():
    lines = in_order(health(series(rows(stopped=[0.5], skipped=[1.0], drawn__spread=[0.3]))))
    assert [line.status for line in lines[:3]] == ["bad", "warn", "good"] and lines[-1].status == "missing"
    assert headline(lines)[0] == "bad" and headline(lines)[1].startswith("Skipped updates")


def test_gradients_of_experts_and_of_terms_are_told_apart():
    lines = {line.title: line for line in health(series(rows(grad_norm__und=[0.5], **{"grad_norm__image/und": [0.1]})))}
    assert [name for name, _ in lines["Gradient norm per expert"].parts] == ["grad_norm/und"]
    assert [name for name, _ in lines["Gradient norm per term of the loss"].parts] == ["grad_norm/image/und"]


def test_seconds_and_failures_of_scorers_are_listed():
    found = series(rows(
        seconds__learn=[1.0, 3.0], busy__replay=[1.0, 1.0], reward__hps__failed=[0.0, 2.0],
        reward__hps__images=[10.0, 20.0], reward__clip__failed=[0.0, 0.0], reward__clip__images=[10.0, 20.0],
    ))  # fmt: skip
    assert seconds_by_part(found) == {"seconds": [("learn", 2.0)], "busy": [("replay", 1.0)]}
    assert scorer_failures(found) == [("hps", 2.0, 20.0)]


def stored(rewards: list[float], advantages: list[float]) -> StoredGroup:
    segments = [{"kind": "text", "turn": 1, "advantage": a, "finished": n > 0} for n, a in enumerate(advantages)]
    siblings = [{"segments": [n], "rewards": {"verifier": [0.0, reward]}} for n, reward in enumerate(rewards)]
    return StoredGroup("looks/step-000010", 0, {"trajectories": siblings}, segments, {})


def test_stored_groups_say_what_the_metrics_do_not():
    lines = {line.title: line for line in health_of_groups([[stored([0.0, 1.0], [-1.0, 1.0])]], "update 10")}
    assert lines["Reward spread within groups"].value == "0.5" and lines["Reward spread within groups"].status == "good"
    assert lines["Advantage spread per kind of segment"].parts == [("text of turn 2", "1")]
    assert lines["Texts cut at the token limit"].status == "bad"
    flat = {line.title: line for line in health_of_groups([[stored([1.0, 1.0], [0.0, 0.0])]], "update 10")}
    assert flat["Reward spread within groups"].status == "bad"
    assert flat["Advantage spread per kind of segment"].status == "warn"
    assert all(line.status == "missing" for line in health_of_groups([], ""))
