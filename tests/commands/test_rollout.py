"""`irg-rl rollout` from a run's model, and DPO on the folder that it wrote."""

import json
import shutil
from dataclasses import replace

import pytest

from irg_rl.config import load_recipe
from irg_rl.driver.offline_loop import Archive, learn_offline
from irg_rl.driver.prepare import BASE
from irg_rl.driver.rl_settings import learner_settings
from irg_rl.driver.run_folder import Run
from irg_rl.driver.stages import tracker_of
from irg_rl.errors import InputError
from irg_rl.learner.ratio_check import RatioError
from irg_rl.model.folder import is_model_folder, load_folder
from irg_rl.records import group_folders, load_groups, save_groups
from tests.driver.begun import begun_run

BRIGHTNESS = {"name": "brightness", "kind": "tests.rewards.scorers:Brightness"}
DPO = {"algorithm": "dpo", "noise": None, "options": {"tie": 0.0}, "group_size": 3, "updates": 2, "groups": 2,
       "checkpoint_every": 1}  # fmt: skip


@pytest.fixture(scope="module")
def run(world, tmp_path_factory) -> Run:
    made = begun_run(world, tmp_path_factory.mktemp("rolled"), rl=DPO, rewards={"scorers": [BRIGHTNESS]})
    shutil.copytree(made.path(BASE), made.path("models", "sft1"))
    return made


def read(run: Run, folder, **changes) -> Archive:
    """`changes`: of the learner's settings."""
    model = run.path("models", "sft1")
    settings = replace(learner_settings(run.recipe, str(model)), **changes)
    return Archive.read(folder, settings, load_folder(model))


@pytest.fixture
def rolled(run, irg_rl, tmp_path):
    out = tmp_path / "out"
    answer = irg_rl("rollout", run.folder, "--out", out, "--groups", 3)
    assert answer.code == 0, answer.err
    assert "3 groups of 3 in" in answer.out
    return out


def test_a_rollout_that_was_interrupted_goes_on_and_more_groups_leave_the_others_as_they_are(run, irg_rl, rolled):
    before = {folder.name: (folder / "groups.json").read_text() for folder in group_folders(rolled)}
    shutil.rmtree(rolled / "group-000001")
    assert irg_rl("rollout", run.folder, "--out", rolled, "--groups", 4).code == 0
    after = {folder.name: (folder / "groups.json").read_text() for folder in group_folders(rolled)}
    assert len(after) == 4 and all(after[name] == words for name, words in before.items())
    group = load_groups(rolled / "group-000003")[0]
    facts = json.loads((rolled / "rollouts.json").read_text())
    assert [set(t.rewards) for t in group.trajectories] == [{"brightness"}] * 3
    assert {t.digest for t in group.trajectories} == {facts["weights"]}


def test_a_folder_begun_with_other_settings_is_not_mixed_up(run, irg_rl, rolled):
    answer = irg_rl("rollout", run.folder, "--out", rolled, "rl.group_size=2")
    assert answer.code == 1 and "group_size 3, now 2" in " ".join(answer.err.split())


def test_show_lists_the_groups_of_a_folder_and_draws_one(irg_rl, rolled):
    count = len(group_folders(rolled))
    listed = irg_rl("show", rolled).out
    assert str(rolled) in listed and f"│ {count - 1} " in listed
    answer = irg_rl("show", rolled, "--group", 0)
    assert answer.code == 0 and "sample 2" in answer.out
    assert answer.out.endswith(f"written: {group_folders(rolled)[0] / 'group.png'}\n")
    assert f"it has groups 0 to {count - 1}" in irg_rl("show", rolled, "--group", 99).err
    assert "has no RL updates: leave --step out" in irg_rl("show", rolled, "--step", 1).err


def test_preferences_are_learned_from_a_folder_alone(run, rolled, local_ray, monkeypatch, tmp_path):
    monkeypatch.setattr("irg_rl.driver.room.LocalRay", lambda *settings: Already())
    place = run.folder / "recipe.yaml"
    offline = Run(run.folder, load_recipe(place, [f"rl.rollouts={rolled}"]), run.stages)
    facts = {}
    with tracker_of(offline) as tracker:
        learn_offline(offline, "sft1", tracker, facts)
    assert facts["updates"] == 2 and facts["pairs"] >= 1 and is_model_folder(run.path("models", "rl"))
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["dpo/count"] > 0 for line in lines if "dpo/count" in line] == [True, True]


class Already:
    """Ray runs in this module's fixture."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


def test_a_folder_of_another_tokenizer_temperature_or_system_prompt_or_without_the_scores_is_refused(run, rolled):
    assert read(run, rolled).material.usable >= 1
    with pytest.raises(RatioError, match="sampled with the system prompt '', the learner has 'Think.'"):
        read(run, rolled, system_prompt="Think.")
    place = group_folders(rolled)[0]
    (group,) = load_groups(place)

    def saved(change):
        save_groups(place, [replace(group, trajectories=[change(t) for t in group.trajectories])])
        return rolled

    with pytest.raises(RatioError, match="was drawn at temperature 0.5"):
        read(run, saved(lambda t: replace(t, law=replace(t.law, temperature=0.5))))
    with pytest.raises(InputError, match="has no score by brightness"):
        read(run, saved(lambda t: replace(t, rewards={})))
    with pytest.raises(InputError, match="written with another tokenizer"):
        read(run, saved(lambda t: replace(t, segments=[replace(t.segments[0], text="else"), *t.segments[1:]])))
    with pytest.raises(InputError, match="no groups"):
        read(run, rolled / "group-000001" / "nothing")


def test_pairs_too_long_for_a_pack_are_left_out_and_a_folder_of_such_alone_is_refused(run, rolled):
    whole = read(run, rolled)
    assert whole.material.too_long == 0
    too_long = f"{whole.material.usable} are too long for a pack .raise rl.max_pack_tokens, now 10"
    with pytest.raises(InputError, match=too_long):
        read(run, rolled, max_pack_tokens=10)
