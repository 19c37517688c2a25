"""`irg-rl show` and `irg-rl replay` on three updates that a learner in an actor of its own has done and dumped."""

import json
import math
import re
import shutil

import pytest
import ray
from PIL import Image

from irg_rl.driver.learners import MOST_BAD, Learners
from irg_rl.driver.prepare import BASE
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.driver.stages import tracker_of
from irg_rl.records import load_groups, look_folder, save_groups, step_folder
from irg_rl.trajectory import Group
from tests.driver.begun import begun_run

STEPS = 3


@pytest.fixture
def trained(local_ray, world, tmp_path) -> Run:
    """A checkpoint after the second of three updates."""
    run = begun_run(world, tmp_path)
    shutil.copytree(run.path(BASE), run.path("models", "sft1"))
    learners = Learners(run, "sft1")
    try:
        with tracker_of(run) as tracker:
            for step in range(1, STEPS + 1):
                drawn = world.sample(4, run.recipe.sampling, run.recipe.rl.noise)
                for trajectory in drawn:
                    trajectory.version, trajectory.digest = learners.message.version, learners.message.digest
                    trajectory.rewards = {"verifier": [0.25] * trajectory.turns}
                refs = [ray.put(Group(step, drawn[0].prompt, drawn))]
                if step == 1:
                    learners.check_ratio(refs)
                learners.dump(refs)
                if step == 2:
                    assert learners.look(refs, 1) is None
                    assert learners.look(refs, 2**20) == look_folder(run.folder, 2)
                result = learners.finish(learners.train(refs))
                tracker.log("rl", step, result)
                learners.publish()
                if step == 2:
                    learners.save({})
    finally:
        learners.stop()
    return Run.open(run.folder)


def test_a_step_is_replayed_to_the_bit_from_the_start_and_from_a_checkpoint(trained, irg_rl):
    for step in (2, 3):
        answer = irg_rl("replay", trained.folder, "--step", step)
        assert answer.code == 0, answer.err
        assert f"RL update {step}" in answer.out and "grad_norm/total" in answer.out
        same, of = re.search(r"(\d+) of (\d+) metrics are those of the run", answer.out).groups()
        assert same == of and int(of) > 10
    assert "weights after the step" in irg_rl("replay", trained.folder, "--step", 2).out


def test_a_run_whose_updates_are_not_finite_ends_with_a_line_and_its_last_update_can_be_replayed(
    local_ray, world, tmp_path, irg_rl
):
    """Fails where the batch is not dumped, where it is dumped for another step, or where the run goes on."""
    run = begun_run(world, tmp_path)
    shutil.copytree(run.path(BASE), run.path("models", "sft1"))
    learners = Learners(run, "sft1")
    try:
        with tracker_of(run) as tracker:
            for step in range(1, MOST_BAD + 2):
                drawn = world.sample(2, run.recipe.sampling, run.recipe.rl.noise)
                drawn[0].segments[0].advantage = 1.0 if step == 1 else math.nan
                refs = [ray.put(Group(step, drawn[0].prompt, drawn))]
                if step == 1:
                    learners.check_ratio(refs)
                tracker.log("rl", step, learners.finish(learners.train(refs)))
                learners.keep_bad(refs)
                if step <= 3:
                    learners.save({})
                assert (learners.bad, bool(learners.skipped)) == (step - 1, step > 1)
                if step <= MOST_BAD:
                    learners.require_finite()
            with pytest.raises(RunError, match=rf"{MOST_BAD} updates in a row, .*irg-rl replay .* --step {step}`"):
                learners.require_finite()
            learners.finish(learners.train(refs))
            learners.keep_bad(refs)
    finally:
        learners.stop()
    kept = [number for number in range(1, step + 2) if step_folder(run.folder, number).exists()]
    assert kept == list(range(3, step + 2)) and len(kept) == MOST_BAD, "the newest ones alone are kept"
    answer = irg_rl("replay", run.folder, "--step", step)
    assert answer.code == 0, answer.err
    same, of = re.search(r"(\d+) of (\d+) metrics are those of the run", answer.out).groups()
    assert same == of and int(of) > 10


def test_groups_that_were_tampered_with_come_out_differently(trained, irg_rl):
    place = step_folder(trained.folder, 3)
    groups = load_groups(place)
    groups[0].trajectories[0].segments[0].advantage = 1.5
    save_groups(place, groups)
    answer = irg_rl("replay", trained.folder, "--step", 3)
    assert answer.code == 1 and "step 3 came out differently in" in answer.err


def test_a_step_that_cannot_be_reached_says_why(trained, irg_rl):
    assert "no RL update 9; it goes to 3" in irg_rl("replay", trained.folder, "--step", 9).err
    shutil.rmtree(step_folder(trained.folder, 1))
    answer = irg_rl("replay", trained.folder, "--step", 2)
    assert answer.code == 1 and "first step 1" in answer.err and "rl.dump_every=1" in answer.err


def test_a_group_is_shown_with_texts_scores_advantages_and_a_strip(trained, irg_rl):
    listed = irg_rl("show", trained.folder, "--step", 2).out
    assert "RL update 2" in listed and "a red circle" in listed and "largest advantage" in " ".join(listed.split())
    answer = irg_rl("show", trained.folder, "--step", 2, "--group", 0)
    assert answer.code == 0 and "verifier 0.250" in answer.out and "+1.000" in answer.out
    picture = Image.open(step_folder(trained.folder, 2) / "group-0.png")
    assert picture.height >= 4 * 128
    group = load_groups(step_folder(trained.folder, 2))[0]
    assert group.prompt.text in answer.out


def test_what_was_not_dumped_is_not_shown(trained, irg_rl):
    assert "steps 1 to 3 were" in irg_rl("show", trained.folder, "--step", 7).err
    assert "of the RL updates, steps 1 to 3 were, 3 of them" in irg_rl("show", trained.folder).out
    assert "has groups 0 to 0" in irg_rl("show", trained.folder, "--step", 1, "--group", 4).err
    shutil.rmtree(trained.folder / "rollouts")
    shown = irg_rl("show", trained.folder, "--step", 2, "--group", 0)
    assert shown.code == 0 and "verifier 0.250" in shown.out, "a look is enough to show a group"
    assert "steps 2 to 2 were" in irg_rl("show", trained.folder, "--step", 1).err
    shutil.rmtree(trained.folder / "looks")
    assert "set rl.dump_every" in irg_rl("show", trained.folder, "--step", 1).err


def test_the_dump_is_json_and_safetensors_alone(trained):
    place = step_folder(trained.folder, 1)
    assert sorted(path.name for path in place.iterdir()) == ["groups.json", "tensors.safetensors"]
    assert json.loads((place / "groups.json").read_text())["groups"][0]["trajectories"][0]["law"]["kind"] == "flow_sde"
