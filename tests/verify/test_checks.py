"""Single checks of `irg-rl verify`: each must be able to fail."""

import shutil

import pytest
import torch

from irg_rl.config import changed_recipe
from irg_rl.errors import InputError
from irg_rl.learner.ratio_check import LogprobDifference
from irg_rl.model.tokenizer import train_tokenizer
from irg_rl.verify import known
from irg_rl.verify.bench import Cost, Reference, Workbench
from irg_rl.verify.budget_check import budget
from irg_rl.verify.check import Status
from irg_rl.verify.clean import clean
from irg_rl.verify.finding import Finding, NotPossibleError
from irg_rl.verify.folder_checks import keys_and_shapes, tokenizer
from irg_rl.verify.number_checks import autoencoder, language, velocity
from irg_rl.verify.pictures import COLOURS, disc
from irg_rl.verify.sampling_checks import LEARNING, SAMPLING, differences, draw_group, require_parity, smoothness
from irg_rl.verify.training_checks import model_folder, save_and_reload, score, update
from tests.model.sizes import bagel_7b, tiny_config
from tests.verify.conftest import run, wrong


@pytest.fixture
def other_tokenizer(tmp_path):
    """A folder with a sound tokenizer of the same size that has learned other words."""
    train_tokenizer(["quartz jumps over my vexed zebra"] * 5, 290, tmp_path / "other")
    return tmp_path / "other"


# --- how a check ends


def test_an_error_of_the_program_fails_a_check_and_says_where_it_was_raised(sound, bench):
    def broken(bench, finding):
        finding.require("first", "1", "1", True)
        raise ZeroDivisionError("by nothing")

    found = run(broken, bench(sound))
    assert found.status is Status.FAILED and len(found.finding.requirements) == 1
    assert "ZeroDivisionError: by nothing (in check.py:" in found.reason and "test_checks.py:" in found.reason


@pytest.mark.parametrize(("holds", "status"), [
    ([True, None], "passed"), ([True, False, None], "failed"), ([None], "not possible here"), ([], "not possible here"),
])  # fmt: skip
def test_a_check_passes_if_all_that_can_be_decided_holds(sound, bench, holds, status):
    def check(bench, finding):
        for number, one in enumerate(holds):
            finding.require(str(number), "", "", one)

    assert run(check, bench(sound)).status == status


def test_what_is_missing_here_is_no_failure(sound, bench):
    def check(bench, finding):
        raise NotPossibleError("no card")

    found = run(check, bench(sound))
    assert (found.status, found.reason) == (Status.IMPOSSIBLE, "no card")


# --- the folder


def test_a_missing_key_is_named_with_what_was_expected(folder, bench):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "ema.safetensors")
    del weights["llm2vae.bias"]
    save_file(weights, folder / "ema.safetensors")
    found = run(keys_and_shapes, bench(folder))
    assert found.status is Status.FAILED and "missing llm2vae.bias" in found.reason


def test_a_tokenizer_json_of_another_model_disagrees_with_the_vocabulary_beside_it(folder, bench, other_tokenizer):
    shutil.copy(other_tokenizer / "tokenizer.json", folder)
    assert list(wrong(run(tokenizer, bench(folder)))) == ["tokenizer.json and vocab.json agree"]


def test_a_whole_other_tokenizer_is_found_by_its_ids(sound, folder, bench, other_tokenizer):
    right = bench(sound)
    assert not wrong(run(tokenizer, right))
    for path in other_tokenizer.iterdir():
        shutil.copy(path, folder)
    assert not wrong(run(tokenizer, bench(folder)))
    assert list(wrong(run(tokenizer, bench(folder, right.kept)))) == ["ids are those of the reference"]


def test_a_tokenizer_that_is_not_qwens_is_found_where_the_sizes_are_bagels(sound, bench, monkeypatch):
    monkeypatch.setattr(Workbench, "is_known", True)
    assert set(wrong(run(tokenizer, bench(sound)))) == {"boundary tokens", "ids of 'Hello, world!'"}


def test_the_tokenizer_of_a_folder_without_weights_is_still_checked(folder, bench):
    (folder / "ema.safetensors").unlink()
    assert run(tokenizer, bench(folder)).status is Status.PASSED


# --- what the model computes


@pytest.mark.parametrize(("check", "what"), [
    (language, "loss of plain English"), (language, "the order of words matters"),
    (autoencoder, "quality of the picture that comes back"), (velocity, "error of the velocity"),
])  # fmt: skip
def test_weights_that_have_learned_nothing_fail_where_bagels_are_known(sound, bench, monkeypatch, check, what):
    monkeypatch.setattr(Workbench, "is_known", True)
    assert what in wrong(run(check, bench(sound)))


def test_numbers_are_compared_with_those_of_the_reference(sound, bench):
    first = bench(sound)
    run(velocity, first)
    assert not wrong(run(velocity, bench(sound, first.kept)))
    first.kept.numbers["velocity"][3] += 0.1
    assert list(wrong(run(velocity, bench(sound, first.kept)))) == ["velocity: same as the reference"]
    del first.kept.numbers["velocity"]
    assert not wrong(run(velocity, bench(sound, first.kept)))


def test_the_sizes_of_bagel_are_known_whatever_its_shift_in_training_is():
    assert known.has_released_sizes(bagel_7b()) and not known.has_released_sizes(tiny_config())
    assert known.has_released_sizes(bagel_7b().model_copy(update={"timestep_shift": 4.0}))
    assert not known.has_released_sizes(bagel_7b().model_copy(update={"max_latent_size": 32}))


def test_a_disc_is_smooth_and_has_its_colour_and_noise_is_neither():
    for colour, bytes_of in COLOURS.items():
        assert tuple(disc(colour, (32, 48))[16, 24]) == bytes_of
    assert smoothness(disc("red", (32, 48))) > known.LEAST_SMOOTHNESS
    noise = torch.randint(0, 256, (32, 48, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
    assert abs(smoothness(noise)) < 0.1 and smoothness(0 * noise) == 0


# --- sampling and training


def test_a_policy_that_is_not_the_learners_fails_parity(sound, bench):
    made = bench(sound)
    drawn = draw_group(made, iteration=0)
    drawn[0].texts[0].logprobs += 1.0
    finding = Finding()
    require_parity(made.recipe, differences(made, drawn), finding)
    assert [r.holds for r in finding.requirements] == [False, True]


def test_in_bf16_the_mean_counts_and_not_the_largest(sound, bench):
    recipe = bench(sound).recipe
    bf16 = recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"dtype": "bf16"})})

    def held(mean: float) -> list[bool | None]:
        finding = Finding()
        found = [LogprobDifference(kind, 0, None, 10, 10 * mean, 1.0, "", 1e-6) for kind in ("text", "image")]
        require_parity(bf16, found, finding)
        return [r.holds for r in finding.requirements]

    assert held(5e-4) == [True, True] and held(1e-2) == [True, False] and held(0.1) == [False, False]


def test_checks_without_what_they_build_on_are_not_possible(sound, bench):
    made = bench(sound)
    for check, reason in ((score, "no group was drawn"), (update, "no group"), (save_and_reload, "no update"),
                          (model_folder, "no update"), (budget, "nothing was measured")):  # fmt: skip
        found = run(check, made)
        assert found.status is Status.IMPOSSIBLE and reason in found.reason


def test_a_scorer_that_fails_fails_its_check_alone(sound, bench):
    from irg_rl.trajectory import Group
    from irg_rl.verify.settings import PROMPT

    made = bench(sound, None, "rewards.scorers=[{name: nan, kind: tests.rewards.scorers:NotANumber}]")
    made.group = Group(0, PROMPT, draw_group(made, iteration=0))
    assert wrong(run(score, made)) == {"images that nan has scored": "0 of 4"}
    assert "same score" in run(update, made).reason


def test_memory_and_time_beyond_the_plan_are_found_on_a_gpu(sound, bench):
    made = bench(sound)
    settings = {"engine.device": "cuda", "engine.dtype": "bf16"}
    made.made = changed_recipe(made.recipe, settings, "test")
    made.measured = {SAMPLING: Cost(0.0, 0.5), LEARNING: Cost(0.0, 0.5)}
    assert run(budget, made).status is Status.PASSED
    made.measured = {SAMPLING: Cost(1e6, 0.5), LEARNING: Cost(0.0, 50.0)}
    assert list(wrong(run(budget, made))) == ["time of sampling", "memory of learning"]


# --- what leaves the machine


def test_paths_are_replaced_by_names_and_what_is_none_is_left(tmp_path):
    places = {"folder": tmp_path / "secret model", "home": tmp_path}
    said = clean(
        {
            "own": f"{tmp_path}/secret model/ae.safetensors cannot be read",
            "nested": [f"in {tmp_path}/runs/x: no", {"deep": "see /opt/data/judge.py line 3"}],
            "kept": "http://host/v1/chat, 1/2, and/or, 3 / 4, layers.1.mlp </think>",
            "short": "no '/models' and no ~/models",
            "count": 3,
        },
        places,
    )
    assert said == {
        "own": "<folder>/ae.safetensors cannot be read",
        "nested": ["in <home>/runs/x: no", {"deep": "see <path> line 3"}],
        "kept": "http://host/v1/chat, 1/2, and/or, 3 / 4, layers.1.mlp </think>",
        "short": "no '<path>' and no <path>",
        "count": 3,
    }


def test_keys_of_the_environment_are_hidden(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "hunter2-hunter2")
    assert clean({"reason": "refused hunter2-hunter2"}, {}) == {"reason": "refused ***"}


@pytest.mark.parametrize(("content", "says"), [
    ("[]", "is no verify.json"), ('{"kind": "parity"}', "is no verify.json"),
    ('{"kind": "verify", "format": 1}', "reference"),
    ('{"kind": "verify", "format": 1, "reference": {"numbers": {"a": ["x"]}}}', "reference.numbers.a.0"),
    ('{"kind": "verify", "format": 1, "reference": {"tensors": {"a": {}}}}', "reference.tensors.a"),
])  # fmt: skip
def test_a_reference_of_another_form_is_named(tmp_path, content, says):
    path = tmp_path / "verify.json"
    path.write_text(content)
    with pytest.raises(InputError, match=says):
        Reference.read(path)
