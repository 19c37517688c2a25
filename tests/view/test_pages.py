"""What the pages say, asked over HTTP."""

import io
import json
import re
from html import unescape

import numpy as np
import pytest
from PIL import Image

from irg_rl.report.samples import save_samples
from irg_rl.view.shown import statement_parts
from tests.view.conftest import serving
from tests.view.material import EVIL, PROMPTS, SIDE, log, make_run, sampled


def words(page: str) -> str:
    """The text of a page as a reader sees it."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def links(page: str, rel: str) -> list[str]:
    return [unescape(link) for link in re.findall(rf'rel="{rel}" href="([^"]*)"', page)]


def pixels(served, page: str) -> list[int]:
    """The first channel of every image of a trajectory, in the order of the page."""
    found = []
    for address in re.findall(r'<img class="pixels" src="([^"]*)"', page):
        path = served.get("run/first/" + unescape(address))
        assert path.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(path.content)) as image:
            assert image.size == (SIDE, SIDE)
            found.append(int(np.asarray(image)[0, 0, 0]))
    return found


# --- runs


def test_all_runs_of_a_folder_are_listed_with_where_they_stand(served, run):
    make_run(run.parent / "deep" / "second", updates=3, looks=False, kept=False)
    said = words(served.page())
    assert "first" in said and "deep~second" in said and "done: sft1" in said and "75.0 %" in said


def test_chosen_runs_share_their_charts(served, run):
    make_run(run.parent / "second", updates=3, kept=False)
    both, one = served.page("?run=first&run=second"), served.page("?run=first")
    chart = next(part for part in both.split("<figure") if "<figcaption>Reward</figcaption>" in part)
    assert [unescape(label) for label in re.findall(r"</svg>([^<]*?) <b>", chart)] == [
        "first first", "first last", "second first", "second last"
    ]  # fmt: skip
    data = json.loads(unescape(re.search(r'data-lines="([^"]*)"', chart)[1]))
    assert [len(line["points"]) for line in data] == [12, 12, 3, 3]
    assert "second last" not in words(one)


def test_any_logged_number_can_be_drawn(served):
    page = served.page("run/first/?curve=rl/step/largest")
    assert "<figcaption>rl/step/largest</figcaption>" in page
    assert served.page("run/first/?curve=rl/nothing").count("<figure") == served.page("run/first/").count("<figure")


def test_a_run_that_begins_later_appears_by_itself(served, run):
    assert "newcomer" not in served.page()
    make_run(run.parent / "newcomer", updates=1, kept=False)
    assert "newcomer" in served.page()


def test_a_folder_without_runs_says_what_makes_one(tmp_path):
    with serving(tmp_path) as served:
        assert "irg-rl train shapes-smoke" in served.page()


# --- one run


def test_a_page_follows_the_run_while_it_writes(served, run):
    before = served.page("run/first/")
    log(run, 13, **{"reward/last": 0.987})
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "rl", "step": 14, "rew')  # a line that is being written
    after = served.page("run/first/")
    assert 'data-name="step-rl">12<' in before and 'data-name="step-rl">13<' in after
    assert "0.987" in after and "0.987" not in before and "Could not be read" not in after


def test_health_leads_the_page_of_a_run(served):
    page = served.page("run/first/")
    said = words(page)
    heads = ["Health of RL", "What there is to look at", "Stages", "Curves"]
    assert sorted(heads, key=said.index) == heads
    bad = ["Groups with a spread in reward", "Gradient norm per expert", "Texts cut at the token limit"]
    assert f"{', '.join(bad)}: outside the limit. 3 of" in said
    assert "RL is learning" in said or "RL learns, but" in said
    assert "Reward spread within groups" in said and "From the 2 stored groups of update 10." in said
    assert "Not in metrics.jsonl: text/turnK/ratio_max, image/turnK/ratio_max." in said
    assert "collect 3 s" in said and "learn 1 s" in said


def test_the_report_of_a_run_is_shown_with_a_policy_of_its_own(served, run):
    assert served.get("run/first/report").status_code == 404
    (run / "report.html").write_text("<h1>a report</h1>")
    answer = served.get("run/first/report")
    assert answer.text == "<h1>a report</h1>" and "sandbox" in answer.headers["content-security-policy"]
    assert "run/first/report" in served.page("run/first/")


# --- samples


@pytest.mark.parametrize(("query", "rows"), [
    ("", ["p0", "p1", "p2", "p3"]),
    ("?show=repaired", ["p0"]), ("?show=damaged", ["p1"]), ("?show=right", ["p0", "p2"]), ("?show=wrong", ["p1", "p3"]),
    ("?show=stopped", ["p2"]), ("?show=disagree", ["p3"]), ("?show=false+reflection", ["p1"]),
    ("?task=counting", ["p1", "p3"]), ("?text=RING", ["p1"]), ("?task=counting&show=damaged", ["p1"]),
    ("?sort=change", ["p1", "p2", "p3", "p0"]), ("?sort=gain", ["p0", "p2", "p3", "p1"]),
    ("?sort=disagreement", ["p3", "p0", "p2", "p1"]), ("?show=no+such+thing", ["p0", "p1", "p2", "p3"]),
])  # fmt: skip
def test_samples_are_filtered_and_sorted(served, query, rows):
    page = served.page(f"run/first/samples{query}")
    assert re.findall(r"prompt=(p\d)[^>]*>(?:[^<]|&lt;)+</a><small>", page) == rows
    assert f'data-name="found">{len(rows)}<' in page


def test_a_sample_shows_everything_and_the_controls_beside_it(served):
    page = served.page("run/first/sample?evaluation=rl&prompt=p0&sample=0")
    said = words(page)
    assert "The model's own refinement repaired" in said
    assert "Control: blind redraw stayed wrong" in said and "another prompt's reflection stayed wrong" in said
    assert '<mark class="edit">put red bar at north .</mark>' in page
    assert "true of the image" in said and "hps 0.2" in said and "clip 0.6" in said
    assert pixels(served, page) == [0, 1] * 3


def test_the_arrow_keys_lead_to_the_neighbours_in_the_filter(served):
    middle = served.page("run/first/sample?evaluation=rl&prompt=p1&sample=0")
    assert ["prompt=p0" in link for link in links(middle, "prev")] == [True]
    assert ["prompt=p2" in link for link in links(middle, "next")] == [True]
    filtered = served.page("run/first/sample?evaluation=rl&prompt=p1&sample=0&task=counting")
    assert links(filtered, "prev") == [] and "prompt=p3" in links(filtered, "next")[0]
    assert "task=counting" in links(filtered, "next")[0] and "1 of 2" in words(filtered)
    assert served.page("run/first/" + links(filtered, "next")[0]).count("three circles") > 0
    assert "task=counting" in links(filtered, "up")[0]


def test_the_link_of_a_sample_outlives_a_new_evaluation(served, run):
    link = "run/first/sample?evaluation=rl&prompt=p2&sample=0"
    assert "a cross" in served.page(link)
    for arm in ("redraw", "shuffled"):
        (run / "evaluation" / f"rl.{arm}.parquet").unlink()
    assert "This evaluation has no controls." in served.page(link)


def test_texts_of_a_model_are_never_read_as_markup(served):
    for path in ("sample?prompt=p1", "samples", "group?folder=looks/step-000010&group=0"):
        page = served.page(f"run/first/{path}")
        assert page.count("<script") == 1 and "<b>rings" not in page and "<i>a ring" not in page
    page = served.page("run/first/sample?prompt=p1")
    assert EVIL.split("</script>")[0] in unescape(page) and PROMPTS["p1"] in unescape(page)


def test_without_stored_images_the_results_are_still_there(run):
    other = make_run(run.parent / "bare", kept=False)
    with serving(other) as served:
        said = words(served.page("run/bare/sample?prompt=p0"))
        assert "image 1 ✗ wrong" in said and "image 2 ✓ right" in said and "were not stored" in said
        assert "<img" not in served.page("run/bare/samples")


def test_the_samples_of_a_report_are_shown_where_nothing_else_is_stored(run):
    other = make_run(run.parent / "old", kept=False)
    save_samples(other / "samples" / "rl", [sampled(0), sampled(1)])
    with serving(other) as served:
        page = served.page("run/old/sample?prompt=p0")
        assert '<mark class="edit">put red bar at north .</mark>' in page and page.count('class="pixels"') == 2
        assert served.page("run/old/samples?pictures=1").count("<small>") == 2
        index = other / "samples" / "rl" / "samples.json"
        index.write_text(index.read_text().replace("000-turn1.png", "../../recipe.yaml"))
        answer = served.get("run/old/picture?arm=real&prompt=p0&turn=1")
        assert answer.status_code == 404 and "not a file of its own folder" in answer.text


# --- groups


def test_groups_of_an_update_are_listed_with_their_spread(served):
    page = served.page("run/first/groups")
    said = words(page)
    assert "update 10: 2 groups" in said and "group 0: <i>a ring</i>" in said
    assert "text of turn 2: −0.50 to +0.50" in said and "image of turn 2: −1.00 to +1.00" in said
    assert page.count('class="thumb ') == 4 and re.search(r'class="n">0\.5<', page.replace("\n", ""))


def test_a_group_shows_its_siblings_with_advantages_and_scores(served):
    page = served.page("run/first/group?folder=looks/step-000010&group=0")
    said = words(page)
    assert "sample 0" in said and "sample 1" in said and said.count("shared by 2") == 4
    assert "cut at the token limit" in said and "truth 1" in said and "clip failed" in said
    assert re.findall(r'class="advantage (\w+)"[^>]*>([^<]*)<', page) == [
        ("zero", "+0.00"), ("zero", "+0.00"), ("minus", "−0.50"), ("minus", "−1.00"),
        ("zero", "+0.00"), ("zero", "+0.00"), ("plus", "+0.50"), ("plus", "+1.00"),
    ]  # fmt: skip
    assert re.findall(r'<span class="(true|false)"[^>]*>([^<]*)<', page) == [
        ("true", "sibling 0"), ("false", "says"), ("true", "sibling 1"), ("true", "says"),
    ]  # fmt: skip
    assert pixels(served, page) == [10, 100, 10, 101]
    assert links(page, "prev") == [] and links(page, "next") == ["group?folder=looks%2Fstep-000010&group=1"]


def test_one_sibling_has_a_page_of_its_own(served):
    group = served.page("run/first/group?folder=looks/step-000010&group=1")
    [address] = [unescape(a) for a in re.findall(r'<h2><a href="([^"]*)"', group) if "sibling=1" in a]
    page = served.page("run/first/" + address)
    assert pixels(served, page) == [10, 101] and "sibling=0" in links(page, "prev")[0] and links(page, "next") == []


def test_a_folder_of_groups_alone_can_be_shown(run):
    with serving(run / "looks") as served:
        assert "folders of groups" in words(served.page())
        assert "update 10: 2 groups" in words(served.page("run/looks/"))
        assert "sample 1" in served.page("run/looks/group?folder=step-000010&group=0")


# --- damage

DAMAGE = {
    "metrics.jsonl": b'{"stage": "rl", "step": 1}\nnot json\n{"stage": "rl", "step": 2}\n',
    "recipe.yaml": b"a: [1, 2\nb: }", "stages.json": b'{"sft1": ', "evaluation/rl.json": b"[1, 2]",
    "evaluation/rl.real.parquet": b"PAR1 no parquet", "samples/rl.parquet": b"\x00" * 40,
    "looks/step-000010/groups.json": b'{"format": 1, "groups": [{"trajectories": [{"segments": [99], "rewards": {}}]}],'
    b' "segments": []}',
    "looks/step-000010/tensors.safetensors": b"\xff" * 20,
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_file_is_one_line_on_the_page_and_never_a_traceback(served, run, name, cut):
    path = run / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if cut else DAMAGE[name])
    told = []
    for place in ("", "run/first/", "run/first/samples", "run/first/sample?prompt=p0", "run/first/groups",
                  "run/first/group?folder=looks/step-000010&group=0"):  # fmt: skip
        answer = served.get(place)
        assert answer.status_code in (200, 404) and "Traceback" not in answer.text
        told += re.findall(r'<p(?: class="problems?")?>([^<]+)</p>', answer.text)
    cut_at_a_line = name == "metrics.jsonl" and cut  # as if it was being written: no problem
    assert cut_at_a_line or any(name.split("/")[-1] in line or "no evaluation" in line for line in told), told


@pytest.mark.parametrize(("stored", "parts"), [
    ({"a": [[0, 3, 1.0], [4, 7, 0.25]]}, [("one", True), (" ", None), ("two", False), (" end", None)]),
    ({"a": [], "b": [[0, 3, 1.0]]}, []),
    ({"a": [[0, "x", 1.0]]}, []),
    ({"a": 3}, []), ([[0, 3, 1.0]], []), (None, []),
])  # fmt: skip
def test_a_text_is_shown_in_its_statements_and_damaged_ones_are_left_out(stored, parts):
    assert statement_parts("one two end", stored) == parts
