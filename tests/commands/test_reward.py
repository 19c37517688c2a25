"""`irg-rl reward` on pictures of the shapes world, with its verifier, a scorer by import path, and its judge."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml

from irg_rl.commands.reward import most_groups, write_table
from irg_rl.config import load_recipe
from irg_rl.driver.scorer_source import ScorerSource
from irg_rl.imports import child_path
from rewards.remote import RemoteScorer
from tests.reward_bench.bench import pictures

SCORERS = (
    "rewards.scorers=[{name: verifier, kind: verifier}, {name: b, kind: 'tests.rewards.scorers:Brightness'}, "
    "{name: truth, kind: verifier, of: reflection, held_out: true}]"
)
WITH_JUDGE = "rewards.scorers=[{name: verifier, kind: verifier}, {name: judge, kind: judge, weight: .5}]"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Preferences that the shapes world made, with their images listed for `score`."""
    return listed(tmp_path_factory.mktemp("reward") / "pairs", 6)


def listed(folder, prompts: int):
    from irg_rl.commands.reward import make_pairs

    make_pairs("shapes-smoke", [], folder, prompts)
    seen = {}
    for line in (folder / "pairs.jsonl").read_text().splitlines():
        pair = json.loads(line)
        for side in "ab":
            seen[pair[side]] = {"file_name": pair[side], "prompt": pair["prompt"], "metadata": pair["metadata"]}
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps(entry) for entry in seen.values()))
    return folder


def test_score_writes_one_table_and_counts_failures_with_their_reasons(made, tmp_path, irg_rl):
    images = shutil.copytree(made, tmp_path / "images")
    (images / "images" / "broken.png").write_bytes(b"no picture")
    more = json.dumps({"file_name": "images/broken.png", "prompt": "x"})
    (images / "prompts.jsonl").write_text(f"{(made / 'prompts.jsonl').read_text()}\n{more}\n")
    answer = irg_rl("reward", "score", "shapes-smoke", images, "--out", tmp_path / "t.parquet", SCORERS)
    assert answer.code == 0, answer.err
    assert "verifier: 24 scored, 1 failed" in answer.out and "broken.png: the image cannot be decoded" in answer.out
    table = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert len(table) == 25 and {"verifier", "verifier.error", "b", "b.error"} <= set(table[0])
    assert "truth" not in table[0], "it scores reflections"
    assert all(0 <= row["verifier"] <= 1 for row in table[:-1]) and table[-1]["b"] is None
    again = irg_rl("reward", "score", "shapes-smoke", images, "--out", tmp_path / "t.parquet", SCORERS)
    assert again.code == 0 and parquet.read_table(tmp_path / "t.parquet").to_pylist() == table


def test_prompts_that_a_scorer_is_not_used_for_are_no_failures(made, tmp_path, irg_rl):
    scorers = "rewards.scorers=[{name: b, kind: 'tests.rewards.scorers:Brightness', when: {tag: no-such}}]"
    answer = irg_rl("reward", "score", "shapes-smoke", made, "--out", tmp_path / "t.parquet", scorers)
    assert answer.code == 0 and "b: 0 scored, 0 failed\n" in answer.out, answer.err


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_tables_have_other_forms_too(made, tmp_path, irg_rl, ending):
    out = tmp_path / f"t{ending}"
    assert irg_rl("reward", "score", "shapes-smoke", made, "--out", out, SCORERS).code == 0
    assert len(out.read_text().splitlines()) == 24 + (ending == ".csv")


def test_a_text_from_outside_is_no_formula_in_a_table(tmp_path):
    hostile = '=HYPERLINK("http://x","y")'
    rows = [{"prompt": hostile, "b": -0.5, "b.error": "@x"}, {"prompt": "a = b", "b": None, "b.error": None}]
    write_table(tmp_path / "t.csv", rows)
    with (tmp_path / "t.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["prompt"] for row in found] == [f"'{hostile}", "a = b"]
    assert [(row["b"], row["b.error"]) for row in found] == [("-0.5", "'@x"), ("", "")]


def test_compare_then_calibrate_prints_overrides_that_a_recipe_takes(tmp_path, irg_rl):
    """Twelve prompts: of fewer, no scorer can be told from chance."""
    made, out = listed(tmp_path / "pairs", 12), tmp_path / "bench"
    words = ("reward", "compare", "shapes-smoke", made, "--out", out, "--pairs", made, "--changed", 4, "--shown", 6)
    answer = irg_rl(*words, WITH_JUDGE)
    assert answer.code == 0, answer.err
    found = json.loads((out / "comparison.json").read_text())
    assert found["scorers"]["verifier"]["correlation"] == pytest.approx(1)
    assert found["scorers"]["judge"]["order"]["value"] > 0.7 and found["scorers"]["judge"]["noise"] > 0
    assert found["scorers"]["judge"]["position"]["liking"]["value"] > 0, "the embedded judge likes the first position"
    assert found["pairs"] == 72 and found["basis"] == "verdict"
    assert "verifier is the verdict itself." in answer.out and (out / "index.html").is_file()
    calibrated = irg_rl("reward", "calibrate", out)
    assert calibrated.code == 0, calibrated.err
    lines = calibrated.out.splitlines()
    override = next(line for line in lines if "rewards.scorers=" in line).strip("'")
    scorers = load_recipe("shapes-smoke", [override]).rewards.scorers
    assert [s.name for s in scorers] == ["verifier", "judge"] and scorers[0].weight == 1.0 and scorers[1].weight > 0
    assert yaml.safe_load(next(line for line in lines if "rl.options.tie=" in line).split("=")[1].split()[0]) > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("score", "shapes-smoke", "no-such", "--out", "t.csv"), "no-such does not exist"),
        (("score", "shapes-smoke", ".", "--out", "t.txt"), "--out t.txt: the name of the table ends in"),
        (("calibrate", "no-such"), "no-such does not exist"),
        (("serve", "shapes-smoke", "no-such"), "no scorer 'no-such'; it has: verifier, hps, judge, clip"),
        (("serve", "shapes-smoke", "verifier", "--host", "0.0.0.0"), "--token-env"),
        (("serve", "shapes-smoke", "verifier", "--python", "/no/python"), "--python /no/python: cannot be started"),
    ],
)
def test_what_cannot_work_is_one_line(words, said, irg_rl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = irg_rl("reward", *words)
    assert answer.code == 1 and said in answer.err, answer.err


def test_serve_runs_the_scorer_with_another_python_and_ends_with_its_owner():
    program = "from irg_rl.commands.cli import main; main()"
    command = [
        sys.executable, "-c", program, "reward", "serve", "shapes-smoke", "verifier", "--python", sys.executable
    ]  # fmt: skip
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": child_path()})
    base_url = json.loads(owner.stdout.readline())["base_url"]
    from irg_rl.shapes_world.prompts import make_prompts

    [prompt] = make_prompts(1, "train", seed=0)
    remote = RemoteScorer(base_url, retries=0)
    remote.check()
    assert remote.score([np.zeros((24, 24, 3), np.uint8)], [prompt]) != [None]
    owner.send_signal(signal.SIGKILL)
    owner.wait(timeout=20)
    owner.stdout.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and "Connection refused" not in remote.last_error:
        remote.score([np.zeros((24, 24, 3), np.uint8)], [prompt])
        time.sleep(0.1)
    assert "Connection refused" in remote.last_error


def test_answers_are_bound_to_the_settings_of_the_scorer():
    def identities(*overrides):
        return {case.name: case.identity for case in ScorerSource.of("shapes-smoke", overrides).cases()}

    first = identities()
    assert set(first) == {"verifier", "hps", "judge", "clip"}
    assert identities("seed=1")["verifier"] != first["verifier"]
    assert identities("rewards.judge_errs=0.1")["judge"] != first["judge"]
    assert identities("rl.updates=7") == first


def test_most_keeps_whole_groups():
    images = pictures(10, 4)
    kept = most_groups(images, 14)
    groups = [image.group for image in kept]
    assert len(kept) == 12 and all(groups.count(name) == 4 for name in groups)
    assert most_groups(images, 40) == images and len(most_groups(images, 1)) == 4
