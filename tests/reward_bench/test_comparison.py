"""Comparisons whose right result is known: a scorer that is the verdict, its opposite, a shaky one, a broken one."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from irg_rl.errors import InputError
from irg_rl.reward_bench.asking import ask_everything, ask_pairs, is_pairwise
from irg_rl.reward_bench.calibration import calibrate, rounded, with_weights
from irg_rl.reward_bench.changes import DAMAGES, nudged
from irg_rl.reward_bench.comparison import compare
from irg_rl.reward_bench.material import CompareSettings, gather
from irg_rl.reward_bench.page import write_bench_page
from irg_rl.reward_bench.preferences import PreferencePair
from irg_rl.reward_bench.recommend import recommend
from irg_rl.reward_bench.scoring import ScoreLog, items_of
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scenes import crowded_scene
from tests.report.page import Page
from tests.reward_bench.bench import Hubs, by_brightness, case, pictures, tagged

SETTINGS = CompareSettings(rounds=3, repeated=24, changed=8, pairs=16)
CASES = [
    case("bright", "Brightness"), case("opposite", "Opposite", weight=0.5), case("shaky", "Shaky", weight=0.2),
    case("absent", "Absent"), case("duel", "Duel", held_out=True),
]  # fmt: skip


def run(folder, images, cases, verdicts=by_brightness, pairs=(), when=None):
    material, found = gather(images, list(pairs), verdicts, SETTINGS)
    hubs, log = Hubs(*cases, when=when), ScoreLog(folder / "log.jsonl")
    answers = [ask_everything(one, material, SETTINGS, log, hubs, lambda done, note: None) for one in cases]
    return SimpleNamespace(found=compare(answers, material, found), hubs=hubs, material=material)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    return run(tmp_path_factory.mktemp("compared"), pictures(10, 4), CASES)


def report_of(compared, name):
    return next(report for report in compared.found.reports if report.case.name == name)


def test_a_scorer_is_right_or_wrong_about_siblings(compared):
    right, wrong = report_of(compared, "bright"), report_of(compared, "opposite")
    assert (right.order.value, wrong.order.value) == (1.0, 0.0) and right.order.n == 10 * 6
    assert right.correlation == pytest.approx(1) and wrong.correlation == pytest.approx(-1)
    assert compared.found.within["bright", "opposite"].value == pytest.approx(-1)
    assert compared.found.within["bright", "duel"].value == pytest.approx(1)
    assert compared.found.basis == "verdict"


def test_noise_is_measured_between_equal_calls(compared):
    assert report_of(compared, "bright").noise_again < 1e-12
    assert report_of(compared, "shaky").noise_again == pytest.approx(0.5, rel=0.4)
    assert report_of(compared, "shaky").reliability < 0.5 < report_of(compared, "bright").reliability


def test_a_scorer_that_is_not_there_is_reported_and_stops_nothing(compared):
    absent = report_of(compared, "absent")
    assert absent.scored == 0 and list(absent.reasons) == ["unavailable: scorer 'absent': no such model: put it there"]
    assert any("absent gave no score: unavailable" in line for line in recommend(compared.found))


def test_position_bias_and_choices_of_a_scorer_that_compares(compared):
    position = report_of(compared, "duel").position
    assert position.liking.value == pytest.approx(0.2)
    assert position.right.value == 1.0
    assert report_of(compared, "bright").position is None
    assert is_pairwise("judge") and not is_pairwise("clip")


def test_the_advice_names_the_best_the_useless_and_the_noisy(compared):
    advice = "\n".join(recommend(compared.found))
    assert "bright is the verdict itself." in advice
    assert "Do not reward opposite: 0.00" in advice
    assert "shaky: most of its spread inside groups is noise" in advice
    assert "bright and duel say nearly the same" in advice
    assert "duel likes the first position: it adds 0.20" in advice


def test_a_second_comparison_asks_nothing_but_the_scorer_that_was_absent(tmp_path):
    cases = CASES[:1] + CASES[3:]
    run(tmp_path, pictures(3, 4), cases)
    again = run(tmp_path, pictures(3, 4), cases)
    assert again.hubs.shown("bright") == again.hubs.shown("duel") == 0
    assert {hub.specs[0].name for hub in again.hubs.opened} == {"absent"}


def test_without_verdicts_preferences_decide_and_siblings_of_one_model_are_counted_apart(tmp_path):
    images = pictures(16, 2, levels=[60, 200])
    told = [(0.0, ("m", "m"))] * 11 + [(0.0, ("m", "n"))] * 3 + [(1.0, ("m", "n")), (0.5, ("", ""))]
    pairs = [
        PreferencePair(images[2 * i], images[2 * i + 1], preferred, models)
        for i, (preferred, models) in enumerate(told)
    ]  # fmt: skip
    found = run(tmp_path, images, CASES[:2], verdicts=None, pairs=pairs).found
    bright = found.reports[0]
    assert (found.basis, found.pairs, found.ties) == ("preferences", 16, 1)
    assert (bright.preferences.value, bright.preferences.n) == (pytest.approx(14 / 15), 15)
    assert (bright.one_model.value, bright.one_model.n) == (1.0, 11)
    assert bright.order.n == 0
    assert "Trust bright most: it puts 0.93" in "\n".join(recommend(found))


def test_prompts_that_a_scorer_is_not_used_for_are_left_out_and_count_as_no_failures(tmp_path):
    images = [*tagged(pictures(3, 4), "counting"), *tagged(pictures(6, 4)[12:], "colors")]
    duel, when = [case("duel", "Duel")], {"tag": "counting"}
    compared = run(tmp_path, images, duel, when=when)
    report, half = report_of(compared, "duel"), run(tmp_path / "half", images[:12], duel).found.reports[0]
    assert (report.failed, report.reasons) == (0, {}) and report.order == half.order and report.order.n == 3 * 6
    asked = [prompt for hub in compared.hubs.opened for prompt in hub.scorers["duel"].compared]
    assert asked and {prompt.metadata["tag"] for prompt in asked} == {"counting"}
    assert not run(tmp_path, images, duel, when=when).hubs.opened, "nothing is asked again"


def test_pairs_are_left_out_even_if_nothing_is_known_of_their_images(tmp_path):
    first, second = items_of(tagged(pictures(1, 2), "colors"))
    [duel], log = [case("duel", "Duel")], ScoreLog(tmp_path / "log.jsonl")
    hubs = Hubs(duel, when={"tag": "counting"})
    assert ask_pairs(duel, [(first, second)], log, hubs) == [None]
    assert hubs.opened[0].scorers["duel"].compared == []


def test_with_nothing_to_be_right_about_it_says_so(tmp_path):
    found = run(tmp_path, pictures(3, 2), CASES[:1], verdicts=None).found
    assert found.basis == "" and "not which scorer is right" in recommend(found)[0]


def test_no_scorer_is_an_error():
    with pytest.raises(InputError, match="no scorer"):
        compare([], gather(pictures(1, 2), [], None, SETTINGS)[0], [None] * 2)


def test_changes_can_be_seen_and_the_invisible_one_hardly():
    import random

    image = render(crowded_scene(random.Random(0)))
    for name, change in DAMAGES.items():
        changed = change(image)
        assert changed.shape == image.shape and changed.dtype == np.uint8, name
        assert np.abs(changed.astype(int) - image).mean() > 3, name
        assert np.array_equal(changed, change(image)), f"{name} is always the same"
    gap = np.abs(nudged(image).astype(int) - image)
    assert gap.max() == 1


def test_the_page_escapes_what_comes_from_outside_and_embeds_everything(compared, tmp_path):
    facts = {"images": "<script>alert(1)</script>", "commit": "abc"}
    path = write_bench_page(tmp_path, compared.found, [*recommend(compared.found), "<b>bold</b>"], facts)
    page = Page(path.read_text())
    assert "<script>alert(1)</script>" in page.text and "<b>bold</b>" in page.text
    assert not page.all("script") and not page.all("b") and not page.unclosed
    assert all(image["src"].startswith("data:image/svg+xml") for image in page.all("img")) and len(page.all("img")) == 3
    assert "no such model: put it there" in page.text
    assert sorted(p.name for p in (tmp_path / "figures").glob("*.png")) == [
        "agreement.png", "changes.png", "spearman.png"
    ]  # fmt: skip


def measured(spread, noise, correlation=None, order=0.8, low=0.7, **more):
    share = {"value": order, "low": low}
    reliability = None if spread is None else 1 - (noise or 0) ** 2 / spread**2
    return {
        "kind": "clip", "weight": 1.0, "held_out": False, "scored": 9, "spread": spread, "noise": noise,
        "correlation": correlation, "order": share, "preferences": share, "reliability": reliability,
    } | more  # fmt: skip


def test_weights_are_correlation_over_spread_and_the_verifier_keeps_its_own():
    scorers = {
        "v": measured(0.25, 0.0, 1.0, kind="verifier", weight=2.0), "c": measured(0.1, 0.05, 0.5),
        "chance": measured(1.0, 0.1, 0.2, order=0.52, low=0.48), "h": measured(1.0, 0.1, 0.9, held_out=True),
    }  # fmt: skip
    found = calibrate({"basis": "verdict", "scorers": scorers})
    # v: 1 / .25 = 4 becomes 2, so c: .5 / .1 = 5 becomes 2.5
    assert found.weights == {"v": 2.0, "c": 2.5, "chance": 0.0}
    assert found.tie == pytest.approx(1.645 * 2**0.5 * 2.5 * 0.05, rel=0.01)
    assert found.notes == ["chance: cannot be told apart from chance"]


def test_without_a_target_a_scorers_own_reliability_is_its_voice():
    scorers = {"a": measured(1.0, 0.6), "b": measured(2.0, 0.0)}
    found = calibrate({"basis": "", "scorers": scorers})
    assert found.voices == pytest.approx({"a": 0.8, "b": 1.0})
    assert found.weights == {"b": 1.0, "a": pytest.approx(1.6)}
    by_preference = calibrate({"basis": "preferences", "scorers": scorers}, combine="zscore_sum")
    assert by_preference.weights == {"a": 1.0, "b": 1.0} and by_preference.voices["a"] == pytest.approx(0.6)


def test_a_noise_that_was_not_measured_is_said_and_nothing_usable_is_an_error():
    found = calibrate({"basis": "verdict", "scorers": {"a": measured(1.0, None, 0.5)}})
    assert found.tie == 0 and found.notes == ["a: its noise was not measured and counts as 0"]
    with pytest.raises(InputError, match="nothing to weigh"):
        calibrate({"basis": "verdict", "scorers": {"a": measured(1.0, 0.1, 0.1, order=0.5, low=0.4)}})


def test_weights_have_three_digits_and_other_scorers_stay_as_they_are():
    assert (rounded(0.0123456), rounded(1234.5), rounded(0.0)) == (0.0123, 1230.0, 0.0)
    given = [{"name": "a", "kind": "clip", "weight": 1.0}, {"name": "b", "kind": "hps", "held_out": True}]
    assert with_weights(given, {"a": 2.0}) == [{"name": "a", "kind": "clip", "weight": 2.0}, given[1]]


def test_a_comparison_survives_json(compared):
    content = json.loads(json.dumps(compared.found.to_dict(), allow_nan=False))
    assert content["scorers"]["bright"]["order"]["value"] == 1.0 and content["scorers"]["absent"]["mean"] is None
    assert calibrate(content).weights["bright"] > 0
