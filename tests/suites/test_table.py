"""Figures by hand: groups, weights, what is missing, intervals and pairs."""

import numpy as np
import pytest

from irg_rl.suites.catalog import suite_of
from irg_rl.suites.oneig import text_score
from irg_rl.suites.scores import Key, Results
from irg_rl.suites.table import Table
from irg_rl.suites.wise import LEGACY_WEIGHTS, VERIFIED_WEIGHTS, wiscore
from irg_rl.trajectory import Prompt
from tests.suites.official import write_official


def table_of(name: str, tmp_path) -> Table:
    suite = suite_of(name)
    return Table(suite, suite.read_prompts(write_official(name, tmp_path)), resamples=200)


def scores(values: dict[str, float], metric: str = "score") -> Results:
    results = Results("made here")
    for prompt, value in values.items():
        results.put(Key(prompt, 0, metric), value)
    return results


def named(rows) -> dict:
    return {row.figure: row for row in rows}


def geneval_prompts(counts: dict[str, int]) -> list[Prompt]:
    tags = [tag for tag, count in counts.items() for _ in range(count)]
    return [Prompt(str(i), f"p{i}", {"index": i, "row": {"tag": tag}}) for i, tag in enumerate(tags)]


def test_geneval_is_the_mean_of_the_tasks_and_not_of_the_images():
    """Three of four images of one task are right (.75), none of twelve of the other: mean .375, not 3/16."""
    table = Table(suite_of("geneval"), geneval_prompts({"counting": 1, "colors": 3}), resamples=50)
    results = Results("x")
    for key in table.expected:
        results.put(key, key.prompt == "0" and key.sample < 3)
    rows = named(table.rows(results))
    assert rows["counting"].value.value == 0.75 and rows["colors"].value.value == 0.0
    assert rows["overall (mean of the tasks)"].value.value == pytest.approx(0.375)


def test_missing_scores_are_counted_as_wrong_and_shown():
    table = Table(suite_of("geneval"), geneval_prompts({"counting": 2}), resamples=50)
    results = Results("x")
    for sample in range(4):
        results.put(Key("0", sample, "score"), True)
    row = table.rows(results)[-1]
    assert (row.value.value, row.judged.value, row.missing, row.expected) == (0.5, 1.0, 4, 8)


def test_images_of_one_prompt_are_no_independent_evidence():
    prompts = geneval_prompts({"counting": 40})
    table = Table(suite_of("geneval"), prompts, resamples=500)
    clustered, spread = Results("x"), Results("x")
    coin = np.random.default_rng(0)
    for key in table.expected:
        clustered.put(key, int(key.prompt) % 2)
        spread.put(key, coin.random() < 0.5)
    widths = [row.value.high - row.value.low for row in (table.rows(clustered)[0], table.rows(spread)[0])]
    assert widths[0] > 1.5 * widths[1]


def test_all_right_is_not_certain():
    table = Table(suite_of("geneval"), geneval_prompts({"counting": 20}), resamples=50)
    results = Results("x")
    for key in table.expected:
        results.put(key, True)
    row = table.rows(results)[0]
    assert row.value.value == row.value.high == 1.0 and row.value.low < 0.9


def test_one_prompt_has_no_bootstrap_interval(tmp_path):
    rows = named(table_of("imgedit", tmp_path).rows(scores({"101": 4.0, "102": 2.5})))
    assert rows["remove"].value.value == 4.0 and np.isnan(rows["remove"].value.low)
    assert not np.isnan(rows["mean of all images"].value.low)


def test_wiscore_and_both_ways_to_average_wise(tmp_path):
    assert wiscore({"consistency": 2, "realism": 1, "aesthetic_quality": 1}) == pytest.approx(0.85)
    assert sum(LEGACY_WEIGHTS.values()) == pytest.approx(1.0) == sum(VERIFIED_WEIGHTS.values())
    values = {"1": 0.4, "2": 0.6, "401": 0.2, "568": 0.3, "701": 1.0, "801": 0.0, "901": 0.5}
    rows = named(table_of("wise", tmp_path).rows(scores(values)))
    assert rows["cultural"].value.value == pytest.approx(0.5)
    assert rows["unweighted mean of the categories"].value.value == pytest.approx(2.5 / 6)
    by_hand = 0.4 * 0.5 + 0.167 * 0.2 + 0.133 * 0.3 + 0.1 * (1.0 + 0.0 + 0.5)
    assert rows["overall (official weights)"].value.value == pytest.approx(by_hand)


def test_wise_published_columns_of_bagel_give_both_published_means():
    """BAGEL's columns (.44 .55 .68 .44 .60 .39) give .52 unweighted and .50 weighted."""
    columns = dict(zip(LEGACY_WEIGHTS, (0.44, 0.55, 0.68, 0.44, 0.60, 0.39), strict=True))
    assert round(sum(columns.values()) / 6, 2) == 0.52
    assert round(sum(LEGACY_WEIGHTS[name] * value for name, value in columns.items()), 2) == 0.50


def test_wise_verified_has_other_categories_for_the_same_ids():
    legacy, verified = suite_of("wise"), suite_of("wise-verified")
    assert [legacy.stratum(Prompt(i, "")) for i in ("400", "560", "600")] == ["cultural", "time", "space"]
    assert [verified.stratum(Prompt(i, "")) for i in ("400", "560", "700")] == ["cultural", "space", "biology"]


def test_tiif_is_a_share_of_questions_then_a_mean_of_types_and_groups(tmp_path):
    table = table_of("tiif", tmp_path)
    results = Results("x")
    results.put(Key("color+2d/short/0", 0, "score"), 2, 2)
    results.put(Key("color+2d/short/1", 0, "score"), 1, 2)
    results.put(Key("negation/short/0", 0, "score"), 0, 1)
    rows = named(table.rows(results))
    assert rows["short, advanced: attribute + relation"].value.value == pytest.approx(3 / 4)
    assert rows["short, basic: reasoning"].value.value == 0.0
    assert rows["overall, short (mean of 2 groups)"].value.value == pytest.approx(0.375)
    long = rows["overall, long (mean of 2 groups)"]
    assert long.value.value == 0.0 and np.isnan(long.judged.value) and long.missing == long.expected == 3


def test_a_missing_tiif_image_weighs_as_many_questions_as_it_has(tmp_path):
    table = table_of("tiif", tmp_path)
    results = Results("x")
    results.put(Key("color+2d/short/0", 0, "score"), 2, 2)
    assert named(table.rows(results))["short, advanced: attribute + relation"].value.value == pytest.approx(2 / 4)


def test_genai_groups_come_from_the_skills_file(tmp_path):
    rows = named(table_of("genai-bench", tmp_path).rows(scores({"00000": 0.2, "00001": 0.4, "00002": 0.6})))
    assert {name: row.value.value for name, row in rows.items()} == pytest.approx(
        {"counting": 0.4, "basic": 0.4, "advanced": 0.4, "all": 0.4}
    )


def test_oneig_text_by_hand():
    """ED 50 of 100, a quarter exact, half of the words: 1 - .5 x .75 x .5 = .8125."""
    assert text_score(np.array([50.0, 0.25, 0.5])) == pytest.approx(0.8125)
    assert text_score(np.array([500.0, 0.0, 0.0])) == 0.0


def test_a_missing_oneig_text_counts_as_wholly_wrong(tmp_path):
    rows = named(table_of("oneig-en", tmp_path).rows(scores({"anime/000": 1.0}, "alignment")))
    assert rows["text"].value.value == 0.0 and np.isnan(rows["text"].judged.value)
    assert rows["alignment"].value.value == pytest.approx(1 / 3)


def test_a_missing_edit_counts_as_the_lowest_grade(tmp_path):
    row = table_of("imgedit", tmp_path).rows(scores({"101": 5.0}))[-1]
    assert row.figure == "mean of all images" and row.value.value == 3.0 and row.judged.value == 5.0


def test_a_difference_is_over_what_both_sides_have(tmp_path):
    table = table_of("imgedit", tmp_path)
    both = table.differences(scores({"101": 3.0, "102": 1.0}), scores({"101": 4.5}))
    last = both[-1]
    assert last.figure == "mean of all images" and last.gained.value == 1.5
    assert (last.gained.n, last.left_out) == (1, 1)


def test_a_paired_difference_is_surer_than_its_sides():
    prompts = geneval_prompts({"counting": 50})
    table = Table(suite_of("geneval"), prompts, resamples=500)
    before, after = Results("x"), Results("x")
    for key in table.expected:
        before.put(key, int(key.prompt) % 2)
        after.put(key, int(key.prompt) % 2 or int(key.prompt) % 10 == 0)
    side, gained = table.rows(before)[-1].value, table.differences(before, after)[-1].gained
    assert gained.value == pytest.approx(0.1) and gained.low > 0
    assert gained.high - gained.low < side.high - side.low


def test_geneval2_pools_atoms_by_skill_and_averages_prompts(tmp_path):
    table = table_of("geneval2", tmp_path)
    results = Results("x")
    for prompt, metric, top, bottom in (
        ("0", "am", 0.75, 1), ("1", "am", 0.25, 1), ("0", "gm", 0.5, 1), ("1", "gm", 0.0, 1),
        ("0", "skill object", 1.0, 1), ("1", "skill object", 0.5, 2),
    ):  # fmt: skip
        results.put(Key(prompt, 0, metric), top, bottom)
    rows = named(table.rows(results))
    assert rows["Soft-TIFA AM"].value.value == 0.5 and rows["Soft-TIFA GM"].value.value == 0.25
    assert rows["object (AM over atoms)"].value.value == pytest.approx(1.5 / 3)
    assert rows["3 atoms (GM)"].value.value == 0.25


def test_genevalpp_is_the_mean_of_the_tags_and_says_the_share_too(tmp_path):
    rows = named(table_of("geneval++", tmp_path).rows(scores({"1": 1.0, "2": 0.0, "3": 1.0})))
    assert rows["overall (mean of the tags)"].value.value == 0.75
    assert rows["share of all images"].value.value == pytest.approx(2 / 3)


def test_r3_bench_rectification_is_over_bad_images_alone(tmp_path):
    results = scores({"5": 0.5}, "rect")
    results.put(Key("5", 0, "ref"), 1.0)
    rows = named(table_of("r3-bench", tmp_path).rows(results))
    assert (rows["S_rect"].value.value, rows["S_rect"].expected) == (0.5, 1)
    assert (rows["S_ref"].value.value, rows["S_ref"].missing) == (0.5, 1)
