"""Recipes: one place per setting, every mistake named at once, the same digest for the same run."""

import copy
import re
import shutil
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import torch
import yaml

from irg_rl.config import Recipe, RecipeError, adapters_of, changed_recipe, load_recipe, parse_recipe
from irg_rl.model.folder import save_folder
from irg_rl.model.pack import SpecialIds
from irg_rl.model.unified import UnifiedModel
from tests.learner.world import CONFIG
from tests.model.sizes import bagel_7b

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))
SMOKE = CONFIGS / "shapes-smoke.yaml"
OFFLINE = ["rl.algorithm=dpo", "rl.credit=null", "rl.rollouts=somewhere"]

OWN_SOURCE = "sft.stage2.sources=[{folder: own/refined}]"


def smoke(*overrides: str) -> Recipe:
    return load_recipe(SMOKE, overrides)


def problems(*overrides: str, recipe: Path = SMOKE) -> list[str]:
    """The lines of the error after its headline."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, overrides)
    headline, *lines = str(caught.value).splitlines()
    assert headline == f"{recipe}: {len(lines)} problem(s)"
    return [line.strip() for line in lines]


# --- mistyped settings


@pytest.mark.parametrize(("typo", "meant"), [
    ("rl.updats", "rl.updates"),
    ("rll", "rl"),
    ("engine.zero_stag", "engine.zero_stage"),
    ("rl.noise.window_sise", "rl.noise.window_size"),
    ("model.llm.hidden", "model.llm.hidden_size"),
    ("evaluation.guidance.text_scal", "evaluation.guidance.text_scale"),
    ("task_options.own_image", "task_options.own_images"),
])  # fmt: skip
def test_an_unknown_setting_is_named_with_the_nearest_known_one(typo, meant):
    assert problems(f"{typo}=3") == [f"{typo}: unknown setting; did you mean {meant}?"]


@pytest.mark.parametrize(("typo", "meant"), [
    ("sft.stage1.sources.0.foldr=x", "sft.stage1.sources.0.folder"),
    ("rewards.scorers.1.wieght=2", "rewards.scorers.1.weight"),
])  # fmt: skip
def test_also_inside_a_list(typo, meant):
    assert problems(typo) == [f"{typo.partition('=')[0]}: unknown setting; did you mean {meant}?"]


def test_a_setting_that_resembles_none_lists_those_that_exist():
    (line,) = problems("gate.xyzzy=1")
    assert line == "gate.xyzzy: unknown setting; known here: after, damage, first_accuracy, margin, mode"


def test_all_problems_are_reported_at_once():
    lines = problems("rl.updats=3", "seed=abc", "engine.device=tpu", "sft.stage1.steps=0", "rl.ema_decay=1.5")
    assert len(lines) == 5
    assert any(line.startswith("seed: Input should be a valid integer") and "'abc'" in line for line in lines)
    assert any(line.startswith("engine.device: Input should be 'cpu' or 'cuda'") and "'tpu'" in line for line in lines)
    assert any(line.startswith("sft.stage1.steps:") and "given: 0" in line for line in lines)


def test_what_is_missing_is_named():
    data = yaml.safe_load(SMOKE.read_text())
    del data["model"]["llm"]["hidden_size"], data["name"]
    with pytest.raises(RecipeError) as caught:
        parse_recipe(data)
    assert "model.llm.hidden_size: Field required" in str(caught.value) and "name: Field required" in str(caught.value)


def test_without_a_section_model_the_sizes_are_those_of_the_folder(world, tmp_path):
    save_folder(world.model, world.vae, world.tokenizer, tmp_path / "m")
    data = {"name": "mine", "init_from": str(tmp_path / "m"), "sampling": {"image_size": [16, 16]}}
    recipe = parse_recipe(data)
    assert recipe.model == CONFIG
    shifted = parse_recipe(data | {"model": {"timestep_shift": 4.0, "llm": {"rope_theta": 5e5}}}).model
    assert (shifted.timestep_shift, shifted.llm.rope_theta, shifted.llm.hidden_size) == (4.0, 5e5, 32)
    written = recipe.model_dump(mode="json")
    shutil.rmtree(tmp_path / "m")
    assert parse_recipe(written) == recipe  # what was written down does not need the folder


def test_where_there_is_no_folder_the_sizes_are_those_of_bagel():
    assert load_recipe(CONFIGS / "bagel-lora-grpo.yaml", ["init_from=/nowhere"]).model == bagel_7b()
    shift = load_recipe(CONFIGS / "bagel-sft-stage1.yaml", ["init_from=/nowhere"]).model.timestep_shift
    assert shift == 4.0


def test_a_recipe_without_a_folder_needs_the_sizes():
    with pytest.raises(RecipeError, match="model: Field required"):
        parse_recipe({"name": "mine"})


def test_sizes_that_cannot_be_are_explained_by_the_model():
    (line,) = problems("model.llm.num_attention_heads=3")
    assert line.startswith("model.llm: hidden_size 128 is not a multiple of 3")


def numbers_of(value, path=()):
    """The paths of all numbers in JSON data."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield path
    for key, inner in entries:
        yield from numbers_of(inner, (*path, key))


@pytest.mark.parametrize("other", [0, -1, False])
def test_whatever_number_is_replaced_the_recipe_is_one_or_says_what_is_wrong(other):
    """`model.vae.norm_num_groups: false` was a ZeroDivisionError."""
    whole = smoke().model_dump(mode="json")
    for *above, last in numbers_of(whole):
        given = copy.deepcopy(whole)
        reduce(getitem, above, given)[last] = other
        try:
            parse_recipe(given)
        except RecipeError as error:
            assert str(last) in str(error) or any(str(key) in str(error) for key in above)


# --- overrides


def test_overrides_go_on_top_and_reach_into_lists():
    overrides = "rl.updates=7", "sft.stage1.sources.0.weight=0.25", "sampling.image_size=[24, 32]", "sft.stage2=null"
    recipe = smoke(*overrides)
    assert recipe.rl.updates == 7 and recipe.sft.stage1.sources[0].weight == 0.25
    assert recipe.sampling.image_size == (24, 32) and recipe.sft.stage2 is None


def test_common_overrides_have_short_names():
    recipe = smoke("turns=4", "prompts=20")
    assert recipe.sampling.turns == 4 and recipe.evaluation.prompts == 20


@pytest.mark.parametrize("number", ["1e-3", "0.001", "1.0e-3"])
def test_a_rate_may_be_written_in_any_way(number):
    assert smoke(f"rl.optimizer.lr={number}").rl.optimizer.lr == 0.001


@pytest.mark.parametrize(("written", "mode"), [("on", "on"), ("off", "off"), ("'off'", "off")])
def test_the_gate_may_be_switched_by_a_bare_word(written, mode):
    assert smoke(f"gate.mode={written}").gate.mode == mode


@pytest.mark.parametrize("item", ["turns", "=3", "--turns"])
def test_a_malformed_override_says_how_one_is_written(item):
    with pytest.raises(RecipeError, match="an override is written key=value, for example rl.updates=20"):
        smoke(item)


@pytest.mark.parametrize("item", ["rl.updates=[1", "sft.stage1.sources.99.weight=1", "rl.updates=${nowhere}"])
def test_an_override_that_cannot_be_applied_is_an_error(item):
    with pytest.raises(RecipeError, match=r"cannot be applied|not found"):
        smoke(item)


# --- files


def extending(folder: Path, **files: str) -> Path:
    """Recipe files of these texts; the path of the first."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def test_a_recipe_that_extends_another_says_only_what_differs(tmp_path):
    (tmp_path / "shapes-smoke.yaml").write_text(SMOKE.read_text())
    path = extending(
        tmp_path,
        top="extends: middle.yaml\nrl: {groups: 3}\n",
        middle="extends: shapes-smoke.yaml\nname: mine\nrewards: {scorers: [{name: verifier, kind: verifier}]}\n",
    )
    recipe, smoke = load_recipe(path, ["seed=4"]), load_recipe(SMOKE)
    assert (recipe.name, recipe.rl.groups, recipe.seed) == ("mine", 3, 4)
    assert recipe.rl == smoke.rl.model_copy(update={"groups": 3}) and recipe.sft == smoke.sft
    assert [scorer.name for scorer in recipe.rewards.scorers] == ["verifier"]  # a list is replaced whole


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a": "extends: nowhere.yaml\n"}, "nowhere.yaml: no such recipe"),
        ({"a": "extends: b.yaml\n", "b": "extends: a.yaml\n"}, "never ends"),
        ({"a": "extends: [b.yaml]\n"}, "not the name of one recipe file"),
        ({"a": "- name: x\n"}, "a recipe is a mapping of settings"),
    ],
)
def test_what_cannot_be_extended_is_said(files, said, tmp_path):
    path = extending(tmp_path, **files)
    with pytest.raises(RecipeError, match=said) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_a_recipe_that_comes_back_to_itself_by_another_path_is_found(tmp_path):
    path = extending(tmp_path, a=f"extends: ../{tmp_path.name}/a.yaml\n")
    with pytest.raises(RecipeError, match="never ends"):
        load_recipe(path)


def test_a_missing_recipe_points_to_the_list(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.yaml: no such recipe; `irg-rl ls` lists all"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("content", ["a: [1", "a: 1\na: 2\n", b"\xff\xfe\x00"])
def test_a_file_that_is_no_recipe_is_an_error(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError, match=r"broken\.yaml: not readable as YAML"):
        load_recipe(path)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just words"])
def test_a_file_with_something_else_in_it_is_an_error(tmp_path, content):
    path = tmp_path / "other.yaml"
    path.write_text(content)
    assert problems(recipe=path)


# --- contradictions


@pytest.mark.parametrize(("overrides", "says"), [
    (["rl.noise.window_range=[0, 6]"], "rl.noise.window_range [0, 6) must lie in [0, sampling.points - 1 = 5)"),
    (["rl.noise.window_size=4"], "rl.noise.window_size 4 is wider than rl.noise.window_range [0, 3)"),
    (["rl.groups=3", "engine.learner_ranks=2"], "rl.groups 3 must be a multiple of engine.learner_ranks 2"),
    (["rewards.scorers=[]"], "rl needs a reward: add a scorer of images to rewards.scorers"),
    (["rl.credit=umm", "rewards.combine=zscore_sum"], "rl.credit umm asks if an image is right"),
    (["rl.credit=improvement", "rewards.combine=zscore_sum"], "set rewards.combine=sum"),
    (["rl.credit=no_improve_clamp", "turns=1"], "no_improve_clamp trains turns from number 2 on: set"),
    (["rl.probe_every=1", "engine.zero_stage=3"], "rl.probe_every needs engine.zero_stage 0, 1 or 2"),
    (["engine.dtype=bf16"], "engine.dtype bf16 needs engine.device cuda; use fp32 on the CPU"),
    (["engine.gpu_share=0.5"], "engine.gpu_share needs engine.device cuda"),
    (["rewards.device=cuda"], "rewards.device cuda needs engine.device cuda; leave it out on the CPU"),
    (["engine.gpu_share=0.5", "engine.device=cuda", "engine.learner_ranks=2"], "NCCL, which wants a whole GPU"),
    (["engine.dtype=bf16", "engine.device=cuda", "engine.zero_stage=1"], "needs engine.zero_stage 2 or 3, found 1"),
    (["engine.address=auto", "engine.object_store_mb=900"], "engine.object_store_mb has no effect with engine.address"),
    (["engine.attention=flex"], "engine.attention flex needs engine.device cuda; leave it out on the CPU"),
    (["engine.attention=flash", "engine.device=cuda"], "engine.attention flash needs engine.dtype bf16, found fp32"),
    (["engine.attention=flex", "engine.device=cuda", "model.llm.num_attention_heads=16"],
     "engine.attention flex needs heads of at least 16 numbers, model.llm has 8: choose auto or sdpa"),
    (["sampling.image_size=[30, 32]"], "sides must be multiples of 8 pixels"),
    (["sampling.image_size=[32, 128]"], "at most 48 (model.max_latent_size)"),
    (["sampling.image_size=[16, 16]"], "SFT enlarges smaller pictures to 24 pixels"),
    (["evaluation.guidance.image_scale=2"], "evaluation.guidance.image_scale 2.0 has no effect without text guidance"),
    (["evaluation.preference=jugde"], "evaluation.preference: no judge 'jugde' in rewards.scorers; did you mean"),
    (["evaluation.preference=hps", "rewards.scorers=[{name: hps, kind: hps}]"], "no judge 'hps' in rewards.scorers;"),
    (["sft.own={judge: hps}", OWN_SOURCE], "sft.own.judge: no judge 'hps' in rewards.scorers; known: judge"),
    (["sft.own={judge: judge}"], "sft.own makes rows for stage 2: name own/refined in sft.stage2.sources alone"),
    ([OWN_SOURCE], "sft.stage2.sources: own/refined is made only with sft.own: give it a judge"),
    (["rl.lora={}", "rl.optimizer.muon_lr=0.1"], "rl.optimizer.muon_lr trains whole matrices, which lora freezes"),
    (["rl.lora={}", "rl.optimizer.vision_lr=0.1"], "rl.optimizer.vision_lr has no effect with lora"),
    (["sft.stage1.lora={experts: [und]}", "sft.stage1.optimizer.gen_lr=1"], "sft.stage1.optimizer.gen_lr has no"),
    (["rl.lora={experts: [gen]}", "rl.optimizer.gen_lr=0"], "rl.lora.experts ['gen'] have learning rate 0"),
    (["rl.credit_options.perfect_scorer=hsp", "rl.credit=umm"], "no scorer 'hsp' in rewards; did you mean hps?"),
    (["rl.text_weight=0", "rl.image_weight=0"], "rl.text_weight and rl.image_weight are both 0: nothing is trained"),
    (["rl.text_weight=0", "rl.kl_text=0.1"], "rl.kl_text has no effect with rl.text_weight 0: set rl.kl_text=0"),
    (["rl.image_weight=0", "rl.kl_image=0.1"], "rl.kl_image has no effect with rl.image_weight 0: set rl.kl_image=0"),
    (["rl.mismatch_cap=3"], "rl.mismatch_cap has no effect with engine.dtype fp32: set rl.mismatch_cap=2.0"),
    (["rl.options.kl_space=mean"], "rl.options.kl_space has no effect with rl.kl_image 0"),
    (["rl.options.ratio_norm=true", "rl.image_weight=0"], "rl.options.ratio_norm has no effect with rl.image_weight 0"),
    (["rl.algorithm=awm", "rl.options.power=0.5"], "rl.options.power has no effect with rl.options.weight uniform"),
    (["rl.points=2", "rl.noise={kind: cps, window: all}"], "rl.points 2 leaves no noisy step with rl.noise.kind cps"),
    (["rl.noise={kind: cps, window_size: 3, window_range: [2, 5]}"], "of which cps draws the last without noise"),
    (["rl.noise=null"], "rl.algorithm grpo trains noisy denoising steps: give rl.noise"),
    (["rl.guidance={text_scale: 2}"], "rl.guidance: guided images cannot be replayed in one forward"),
    (["rl.algorithm=nft", "rl.image_weight=0"], "rl.image_weight 0 leaves rl.algorithm nft nothing to do"),
    (["rl.algorithm=nft", "rl.guidance={image_scale: 2}"], "rl.guidance.image_scale has no effect without text"),
    (["rl.algorithm=dpo", "rl.kl_text=0.1"], "rl.kl_text has no effect with rl.algorithm dpo: set rl.kl_text=0"),
    (["rl.rollouts=x"], "rl.rollouts: rl.algorithm grpo learns from samples of its own policy; take dpo"),
    (["rl.algorithm=dpo", "rl.credit=turn"], "rl.credit has no effect with rl.algorithm dpo: set rl.credit=null"),
    (["rl.algorithm=dpo", "rl.clip_text=[0.1, 0.1]"], "rl.clip_text has no effect with rl.algorithm dpo: set rl"),
    (["rl.algorithm=dpo", "rewards.combine=zscore_sum"], "rl.algorithm dpo asks if a gap is larger than rl.opt"),
    ([*OFFLINE, "rl.forks={1: 2}"], "rl.forks has no effect with rl.rollouts, where nothing is sampled: set rl"),
    ([*OFFLINE, "rl.guidance={text_scale: 2}"], "rl.guidance has no effect with rl.rollouts"),
    ([*OFFLINE, "rl.staleness=1"], "nothing is sampled: set rl.staleness=0"),
    ([*OFFLINE, "rl.dump_every=2"], "nothing is sampled: set rl.dump_every=0"),
    (["rewards.scorers=[{name: v, kind: verifier, weight: 0}]"], "rewards.scorers: all weights are 0"),
    (["rl.points=3"], "rl.noise.window_range [0, 3) must lie in [0, rl.points - 1 = 2)"),
    (["sft.base.lora={}"], "sft.base.lora: there is no trained base to put adapters on"),
    (["engine.device=cuda", "engine.critics=3", "rewards.scorers=[{name: c, kind: clip}]"],
     "engine.critics 3 is more than engine.rollout_actors"),
    (["engine.placement=spread"], "engine.placement is about the nodes of a cluster: set engine.address, or leave it"),
])  # fmt: skip
def test_settings_that_contradict_each_other_are_found_before_anything_starts(overrides, says):
    assert any(says in line for line in problems(*overrides))


def test_a_setting_without_its_section_is_found_in_all_sections():
    assert problems("group_size=8") == ["group_size: unknown setting; did you mean rl.group_size?"]
    (line,) = problems("warmup=3")
    assert "sft.base.optimizer.warmup or" in line and line.endswith("rl.optimizer.warmup?")


def test_contradictions_are_reported_together():
    assert len(problems("rl.noise.window_range=[0, 6]", "engine.dtype=bf16")) == 3


@pytest.mark.parametrize(("overrides", "says"), [
    (["rewards.scorers=[{name: a, kind: verifier, held_out: true}]"], "rewards: every scorer is held out"),
    (["rewards.scorers=[{name: a, kind: verifier}, {name: a, kind: hps}]"], "rewards: scorer names must differ"),
    (["sft.stage1=null", "sft.stage2=null", "sft.base=null"], "sft: sft needs"),
    (["sft.stage1.sources=[]"], "sft.stage1: sources needs at least one entry with a weight above 0"),
    (["sft.dropout.image=0.7", "sft.dropout.last_text=0.4"], "sft.dropout: image 0.7 and last_text 0.4 are shares"),
    (["engine.address=ray://head:10001"], "engine.address: 'ray://head:10001': an address with :// is for Ray Client"),
    (["engine.address=head"], "engine.address: 'head': give auto or host:port, such as 10.0.0.1:6379"),
    (["engine.address=head:99999"], "engine.address: 'head:99999': give auto or host:port"),
    (["rl.optimizer.lr=0"], "rl.optimizer: lr, gen_lr and vision_lr are all 0"),
    (["rl.algorithm=nft", "rl.options={time_range: [0, 1]}"], "rl.options.time_range: [0.0, 1.0] must satisfy"),
    (["rl.lora={rank: 0}"], "rl.lora.rank: Input should be greater than or equal to 1"),
    (["rl.lora={targets: []}"], "rl.lora.targets: an empty list trains nothing"),
    (["rl.lora={targets: [q_prj]}"], "rl.lora.targets.0: Input should be 'q_proj', 'k_proj'"),
])  # fmt: skip
def test_a_section_that_contradicts_itself_is_named(overrides, says):
    (line,) = problems(*overrides)
    assert line.startswith(says)


def test_a_scorer_may_be_a_class_of_ones_own_and_take_its_options():
    (scorer,) = smoke("rewards.scorers=[{name: a, kind: 'my.scorers:Sharp', options: {radius: 3}}]").rewards.scorers
    assert scorer.kind == "my.scorers:Sharp" and scorer.options == {"radius": 3}
    (line,) = problems("rewards.scorers.0.kind=hsp")
    assert line.startswith("rewards.scorers.0.kind: 'hsp': choose verifier, clip, hps, pickscore, jpeg, judge, remote,")


def test_the_critic_takes_a_tenth_of_the_card_of_a_rollout_actor_if_it_has_a_model_there():
    models = "rewards.scorers=[{name: hps, kind: hps}, {name: right, kind: verifier}]"
    shared = smoke(models, "engine.device=cuda", "engine.gpu_share=0.5")
    assert shared.critic_gpus == pytest.approx(0.05) and shared.rollout_gpus == pytest.approx(0.45)
    without = (
        smoke(models),
        smoke(models, "engine.device=cuda", "rewards.device=cpu"),
        smoke("rewards.scorers=[{name: right, kind: verifier}]", "engine.device=cuda"),
    )
    assert [recipe.critic_gpus for recipe in without] == [0, 0, 0]
    assert [recipe.rollout_gpus for recipe in without] == [0, 1, 1]
    assert "device" not in smoke().model_dump()["rewards"]


def test_rows_of_ones_own_may_have_any_folder():
    recipe = smoke("sft.data=/somewhere", "sft.stage1.sources.0.folder=mine", "task_options.own_images=0")
    assert recipe.sft.stage1.sources[0].folder == "mine"


def test_a_recipe_may_have_one_sft_stage_alone_or_none():
    assert list(smoke("sft.stage2=null").sft.stages)[-1] == "stage1"
    assert smoke("sft=null").sft is None and smoke("rl=null").rl is None


# --- adapters


def test_the_adapters_of_a_stage_are_those_of_the_experts_with_a_rate():
    assert adapters_of(smoke().rl) is None
    both = smoke("rl.lora={rank: 8}")
    assert (adapters_of(both.rl).rank, adapters_of(both.rl).experts) == (8, ("und", "gen"))
    assert adapters_of(smoke("rl.lora={}", "rl.optimizer.gen_lr=0").rl).experts == ("und",)
    assert adapters_of(smoke("rl.lora={}", "rl.optimizer={lr: 0, gen_lr: 1e-4}").rl).experts == ("gen",)


def test_a_recipe_without_adapters_says_nothing_of_them_and_one_with_survives_being_written_down():
    assert "lora" not in smoke().to_yaml()
    recipe = smoke("rl.lora={experts: [gen], targets: [q_proj]}")
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe and recipe.digest() != smoke().digest()


@pytest.mark.parametrize(("forks", "says"), [
    ("{1: 3}", "rl.group_size 8 must be a multiple of 3, the trajectories that rl.forks {1: 3} makes of one trunk"),
    ("{1: 4, 2: 4}", "rl.group_size 8 must be a multiple of 16, the trajectories"),
    ("{3: 2}", "rl.forks: turn 3 is never reached: sampling.turns 3 has turns up to 2"),
    ("{0: 2}", "greater than or equal to 1"),
    ("{1: 1}", "greater than or equal to 2"),
])  # fmt: skip
def test_forks_that_cannot_be_are_explained(forks, says):
    (line,) = problems(f"rl.forks={forks}", "rl.group_size=8", "sampling.turns=3")
    assert says in line


@pytest.mark.parametrize("credit", ["umm", "no_improve_clamp"])
def test_credit_that_judges_whole_trajectories_is_refused_with_forks(credit):
    lines = problems("rl.forks={1: 2}", f"rl.credit={credit}", "rl.group_size=8", "rewards.combine=sum")
    assert lines == [
        f"rl.credit {credit} judges whole trajectories and knows no forks: choose trajectory, turn, verifier_gae, "
        "improvement, factorised, or leave rl.forks out"
    ]


def test_a_recipe_without_forks_says_nothing_of_them_and_one_with_survives_being_written_down(tmp_path):
    assert "forks" not in smoke().model_dump()["rl"]
    recipe = smoke("rl.forks={1: 2, 2: 2}", "rl.group_size=8", "sampling.turns=3")
    written = tmp_path / "recipe.yaml"
    written.write_text(recipe.to_yaml())
    assert load_recipe(written) == recipe and parse_recipe(recipe.model_dump(mode="json")) == recipe
    assert load_recipe(written).digest() == recipe.digest() != smoke().digest()
    assert recipe.rl.forks == {1: 2, 2: 2} and recipe.rl.leaves == 4
    assert [recipe.rl.rows(turn) for turn in range(3)] == [2, 4, 8]


def test_forks_can_be_taken_back_as_a_folder_of_rollouts_asks():
    forking = "sampling.turns=3", "rl.group_size=8", "rl.forks={1: 2}"
    recipe = smoke(*forking, *OFFLINE, "rl.forks=null")
    assert recipe.rl.forks == {} and "forks" not in recipe.to_yaml()


def test_an_algorithm_s_options_are_written_down_with_their_defaults_and_so_are_a_scheme_s():
    recipe = smoke("rl.algorithm=nft", "rl.credit=verifier_gae", "rl.credit_options.price=0.1")
    written = yaml.safe_load(recipe.to_yaml())
    assert written["rl"]["options"] == {
        "times_per_image": 4, "time_range": [0.02, 1.0], "old": {"flat": 0, "slope": 0.001, "most": 0.5}, "beta": 1.0,
        "bound": 5.0,
    }  # fmt: skip
    assert written["rl"]["credit_options"]["price"] == 0.1 and written["rl"]["credit_options"]["lam"] == 1.0
    assert parse_recipe(written) == recipe and recipe.digest() != smoke("rl.algorithm=nft").digest()


def test_naming_another_algorithm_or_scheme_leaves_the_options_of_the_one_beneath_behind():
    recipe = smoke("rl.options.times_per_image=2", "rl.algorithm=nft")  # whichever stands first
    assert recipe.rl.options.times_per_image == 2 and smoke().rl.options.clip_image == 1e-3
    assert changed_recipe(recipe, {"rl.algorithm": "awm"}, "it").rl.options.times_per_image == 4
    kept = changed_recipe(recipe, {"rl.algorithm": "nft", "rl.seed": 3}, "it")
    assert kept.rl.options.times_per_image == 2
    dpo = smoke("rl.algorithm=dpo", "rl.credit=null")
    assert dpo.rl.credit is None and dpo.model_dump()["rl"]["credit_options"] == {}


@pytest.mark.parametrize(("overrides", "says"), [
    (["rl.options.clip_imag=1"], "rl.options.clip_imag: unknown setting; did you mean rl.options.clip_image?"),
    (["rl.options.clip_image=-1"], "rl.options.clip_image: Input should be greater than 0 (given: -1)"),
    (["rl.credit_options.lam=0.5"], "rl.credit_options.lam: unknown setting; did you mean rl.credit_options.gamma?"),
    (["rl.algorithm=gpro"], "rl.algorithm: unknown rl.algorithm 'gpro'; did you mean grpo?"),
    (["rl.algorithm=tests.nowhere:Mine"], "the module tests.nowhere"),
    (["rl.algorithm=tests.paths:Mine"], "the module tests.paths has no 'Mine'"),
    (["rl.algorithm=irg_rl.errors:InputError"], "is not a class derived from irg_rl.algorithms.base.Algorithm"),
    (["rl.credit=tunr"], "rl.credit: unknown rl.credit 'tunr'; did you mean turn?"),
])  # fmt: skip
def test_what_is_wrong_in_a_name_or_in_options_is_said_with_the_nearest_known_one(overrides, says):
    assert any(says in line for line in problems(*overrides))


def test_rl_may_draw_on_a_time_grid_of_its_own():
    recipe = smoke("rl.points=40", "rl.algorithm=nft", "rl.noise=null", "rl.guidance={text_scale: 2}")
    assert recipe.rl_sampling.points == 40 and recipe.sampling.points == smoke().rl_sampling.points == 6


def test_the_stop_phrase_is_written_down_only_if_it_is_not_the_usual_one():
    assert "stop_phrase" not in smoke().to_yaml()
    recipe = smoke("sampling.stop_phrase=all is well")
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe and recipe.digest() != smoke().digest()
    assert any("sampling.stop_phrase" in line for line in problems("sampling.stop_phrase=''"))


# --- digest


def leaves(data: dict, prefix: str = ""):
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


OTHER = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v + 1e-3, str: lambda v: v + "x"}
NO_RESULT = ("output_dir", "description", "budget_minutes", "tracking", "rl.look_", "evaluation.keep_mb")


def test_the_digest_leaves_out_what_does_not_change_the_result():
    same = smoke("output_dir=/elsewhere", "description=words", "tracking.wandb=false", "budget_minutes={world: 9}")
    assert same.digest() == smoke().digest() and len(same.digest()) == 12
    looking = smoke("rl.look_every=3", "rl.look_mb=1", "evaluation.keep_mb=0")
    assert looking.digest() == smoke().digest() and looking.rl != smoke().rl
    machine = smoke("engine.object_store_mb=2048", "sft.data_workers=4", "sft.latents=/fast/latents")
    elsewhere = smoke("engine.address=auto", "engine.placement=spread", "engine.stop_grace_s=60", "engine.critics=3",
                      "engine.silence_s=null")  # fmt: skip
    assert machine.digest() == elsewhere.digest() == smoke().digest() and elsewhere.engine != smoke().engine
    assert not {"address", "placement", "critics", "silence_s"} & smoke().model_dump()["engine"].keys()


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # sections as plain dicts, which is the point here
def test_the_digest_changes_with_every_other_setting():
    recipe = smoke()
    data, digest, tried = recipe.model_dump(mode="json"), recipe.digest(), 0
    for setting, value in leaves(data):
        if setting.startswith(NO_RESULT) or type(value) not in OTHER:
            continue
        section = data
        *path, last = setting.split(".")
        for part in path:
            section = section[part]
        section[last] = OTHER[type(value)](value)
        changed = Recipe.model_construct(**data)
        assert changed.digest() != digest, f"{setting} is not part of the digest"
        section[last], tried = value, tried + 1
    assert tried > 80


def test_kernels_of_attention_are_part_of_the_digest_where_they_are_chosen():
    assert smoke("engine.attention=auto").digest() == smoke().digest() != smoke("engine.attention=sdpa").digest()
    assert "attention" not in smoke("engine.attention=auto").model_dump()["engine"]


def test_an_sft_stage_has_no_more_ranks_than_packs():
    stage = smoke().sft.stage1
    eight = smoke("engine.learner_ranks=8", "rl.groups=8")
    assert [eight.sft_ranks(stage.model_copy(update={"packs_per_step": n})) for n in (1, 3, 16)] == [1, 3, 8]
    own = smoke("engine.learner_ranks=4", "rl.groups=8", "sft.learner_ranks=8")
    assert own.sft_ranks(stage.model_copy(update={"packs_per_step": 16})) == 8


def test_the_digest_is_the_same_for_a_recipe_written_differently(tmp_path):
    data = yaml.safe_load(SMOKE.read_text())
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(dict(reversed(data.items()))))
    assert load_recipe(path).digest() == smoke().digest()


# --- the shipped recipes


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_survives_being_written_down(path, tmp_path):
    recipe = load_recipe(path)
    written = tmp_path / "recipe.yaml"
    written.write_text(recipe.to_yaml())
    again = load_recipe(written)
    assert again == recipe and again.digest() == recipe.digest()
    assert recipe.name == path.stem and recipe.description


@pytest.mark.parametrize("name", ["shapes-nft", "shapes-dpo"])
def test_recipes_that_differ_in_rl_alone_are_forks_of_one_run(name):
    """A run of shapes.yaml forked with the other recipe's `rl` is a run of the other recipe."""
    here, there = (load_recipe(CONFIGS / f"{one}.yaml").model_dump(mode="json") for one in ("shapes", name))
    assert here.keys() == there.keys()
    assert {key for key in here if here[key] != there[key]} == {"name", "description", "rl"}


def test_shapes_grpo_is_shapes_by_another_name():
    here, there = (load_recipe(CONFIGS / f"{one}.yaml").model_dump(mode="json") for one in ("shapes", "shapes-grpo"))
    assert {key for key in here if here[key] != there[key]} == {"name", "description"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_model_of_every_recipe_builds_on_the_meta_device(path):
    recipe = load_recipe(path)
    with torch.device("meta"):
        model = UnifiedModel(recipe.model, SpecialIds(0, 1, 2, 3))
    count = sum(p.numel() for p in model.parameters())
    assert all(p.is_meta for p in model.parameters())
    assert count > 14e9 if path.stem.startswith("bagel") else 1e6 < count < 4e6


# --- numbers, names and paths from outside


@pytest.mark.parametrize("setting", [
    "rl.optimizer.lr", "rl.credit_options.gamma", "rl.credit_options.std_floor", "rl.options.clip_image",
    "rl.noise.noise_level", "rl.kl_image",
    "sampling.temperature", "sampling.shift", "evaluation.temperature", "gate.margin", "engine.deadline_s",
    "rewards.scorers.0.weight", "sft.stage1.mse_weight", "sft.ema_decay", "vae.lr", "task_options.deep_share",
    "model.llm.rope_theta", "budget_minutes.rl",
])  # fmt: skip
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "nan"])
def test_a_number_that_is_not_finite_is_no_setting(setting, value):
    """weight=.nan passed, and every segment got the advantage +5."""
    (line,) = problems(f"{setting}={value}")
    assert line.startswith(f"{setting}: ")


def test_nor_is_it_one_of_a_pair():
    (line,) = problems("rl.clip_text=[.nan, .3]")
    assert line == "rl.clip_text.0: Input should be a finite number (given: nan)"


def test_nor_is_it_an_option_of_a_scorer():
    (line,) = problems("rewards.scorers.0.options={a: {b: [1, .nan]}}")
    assert line == "rewards.scorers.0.options: a.b.1: a setting must be finite, not NaN or infinity"


@pytest.mark.parametrize("name", ["''", "a/b", "/etc", "'..'", ".hidden", "' a'", '"a\\nb"', "x" * 121, "'[red]a'"])
def test_a_name_that_is_no_folder_of_its_own_is_refused(name):
    (line,) = problems(f"name={name}")
    assert line.startswith("name: ") and "becomes the name of a folder" in line


@pytest.mark.parametrize("name", ["a", "shapes-smoke", "läuft 2", "lr=1e-3, seed 1", "v1.2_x+y"])
def test_a_name_that_a_folder_can_have_is_kept(name):
    assert smoke(f"name='{name}'").name == name


def test_a_scorers_name_is_the_name_of_a_metric():
    (line,) = problems("rewards.scorers.0.name='a/b'")
    assert "becomes the name of a metric" in line


def test_the_home_folder_may_be_written_short(monkeypatch):
    """`output_dir=~/runs` made a folder named ~."""
    monkeypatch.setenv("HOME", "/home/me")
    recipe = smoke("output_dir=~/runs", "init_from=~/bagel", "rl.prompts=~/p.jsonl", "sft.data=~/rows")
    assert (recipe.output_dir, recipe.init_from) == ("/home/me/runs", "/home/me/bagel")
    assert (recipe.rl.prompts, recipe.sft.data) == ("/home/me/p.jsonl", "/home/me/rows")


def test_text_that_cannot_be_written_down_again_is_refused():
    with pytest.raises(RecipeError, match="half a character"):
        smoke('description="\\ud800"')


@pytest.mark.parametrize("project", ["team/project", "''", "a#b", "x" * 129])
def test_a_project_that_wandb_would_refuse_is_found_before_anything_starts(project):
    (line,) = problems(f"tracking.project={project}")
    assert line.startswith("tracking.project: ")


@pytest.mark.parametrize(("overrides", "says"), [
    (["rewards.scorers=[{name: v, kind: verifier}]", "rewards.judge_errs=0.1"], "judge_errs has no effect"),
    (["rl.algorithm=dpo", "rl.rollouts=groups", "rl.groups_per_batch=2"], "groups_per_batch has no effect"),
    (["rl.algorithm=dpo", "rl.rollouts=groups", "rl.prompt_mix={scene: 2}"], "rl.prompt_mix has no effect"),
])  # fmt: skip
def test_settings_of_sampling_and_of_the_embedded_judge_are_errors_where_there_is_none(overrides, says):
    with pytest.raises(RecipeError, match=says):
        load_recipe(CONFIGS / "shapes-smoke.yaml", overrides)


@pytest.mark.parametrize(("scorer", "says"), [
    ("{kind: geneval2}", "base_url: a scorer of kind 'geneval2' needs the address of a judge"),
    ("{kind: decomposed, model: m}", "base_url: a scorer of kind 'decomposed' needs the address of a judge"),
    ("{kind: geneval2, base_url: 'http://h/v1', of: reflection}", "scorers of kind 'geneval2' score images alone"),
    ("{kind: ocr, path: models}", "path: not a setting of scorers of kind 'ocr'"),
    ("{kind: remote, base_url: 'http://h/v1', model: m}", "model: not a setting of scorers of kind 'remote'"),
])  # fmt: skip
def test_scorers_that_ask_a_judge_have_its_address(scorer, says):
    with pytest.raises(RecipeError, match=says):
        load_recipe(CONFIGS / "shapes-smoke.yaml", [f"rewards.scorers=[{{name: x, {scorer[1:]}]"])
    whole = "rewards.scorers=[{name: x, kind: geneval2, base_url: 'http://h/v1', model: m, timeout_s: 9}]"
    assert load_recipe(CONFIGS / "shapes-smoke.yaml", [whole]).rewards.scorers[0].timeout_s == 9


def test_the_embedded_judge_gives_no_grades():
    """Every score failed in RL, after SFT."""
    judge = "rewards.scorers=[{{name: judge, kind: judge, options: {{answer: grade}}{}}}]"
    with pytest.raises(RecipeError, match="options.answer grade: the embedded judge gives no grades"):
        load_recipe(CONFIGS / "shapes-smoke.yaml", [judge.format("")])
    load_recipe(CONFIGS / "shapes-smoke.yaml", [judge.format(", base_url: 'http://127.0.0.1:9/v1'")])


@pytest.mark.parametrize(("overrides", "says"), [
    ([], "rewards.offload has no effect"),
    (["engine.device=cuda"], "rewards.offload has no use: with engine.gpu_share 1"),
    (["engine.device=cuda", "engine.gpu_share=0.5", "rl.staleness=1"], "rewards.offload needs rl.staleness 0"),
])  # fmt: skip
def test_offloading_scorers_needs_a_learner_on_their_gpu_and_a_pause_in_scoring(overrides, says):
    with pytest.raises(RecipeError, match=says):
        load_recipe(CONFIGS / "shapes-smoke.yaml", ["rewards.offload=true", *overrides])
    offline = ["rl.algorithm=dpo", "rl.rollouts=stored", "rl.credit=turn", "engine.device=cuda", "engine.gpu_share=0.5"]
    with pytest.raises(RecipeError, match="rewards.offload has no effect with rl.rollouts"):
        load_recipe(CONFIGS / "shapes-smoke.yaml", ["rewards.offload=true", *offline])
    whole = ["rewards.offload=true", "engine.device=cuda", "engine.gpu_share=0.5"]
    assert load_recipe(CONFIGS / "shapes-smoke.yaml", whole).rewards.offload


@pytest.mark.parametrize(("override", "says"), [
    ("sft.stage1.optimizer={schedule: constant, final_lr_share: 0.1}", "final_lr_share has no effect with schedule"),
    ("sft.dropout={mode: branch, irg_text: 0.1}", "irg_text: no effect with mode branch"),
    ("sft.dropout={mode: irg, image: 0.2, last_text: 0.1}", "image, last_text: no effect with mode irg"),
    ("rl.credit_options={mean_only: true, std_floor: 0.1}", "std_floor has no effect with mean_only"),
])  # fmt: skip
def test_a_setting_that_another_one_switches_off_is_an_error_in_its_section(override, says):
    assert any(says in line for line in problems(override))


TRUTH = "{name: truth, kind: verifier, of: reflection}"


def test_scores_of_reflections_want_a_credit_that_uses_them():
    scorers = f"rewards.scorers=[{{name: verifier, kind: verifier}}, {TRUTH}]"
    with pytest.raises(RecipeError, match="truth scores reflections, which rl.credit turn does not use"):
        load_recipe(CONFIGS / "shapes-smoke.yaml", [scorers])
    recipe = load_recipe(CONFIGS / "shapes-smoke.yaml", [scorers, "rl.credit=factorised"])
    assert recipe.rewards.scorers[1].of == "reflection"


def test_single_statements_are_for_losses_of_single_tokens():
    scorer = "{name: said, kind: verifier, of: statement}"
    given = [f"rewards.scorers=[{{name: verifier, kind: verifier}}, {scorer}]", "rl.credit=factorised"]
    assert load_recipe(CONFIGS / "shapes-smoke.yaml", given).rewards.scorers[1].of == "statement"
    with pytest.raises(RecipeError, match="said scores single statements: set rl.importance=token"):
        load_recipe(CONFIGS / "shapes-smoke.yaml", [*given, "rl.importance=sequence"])
    with pytest.raises(RecipeError, match="statements are scored by verifier, or by a class of your own"):
        judged = given[0].replace("kind: verifier, of", "kind: judge, of")
        load_recipe(CONFIGS / "shapes-smoke.yaml", [judged, "rl.credit=factorised"])


def test_a_reward_of_reflections_alone_is_none():
    with pytest.raises(RecipeError, match="add a scorer of images"):
        load_recipe(CONFIGS / "shapes-smoke.yaml", [f"rewards.scorers=[{TRUTH}]", "rl.credit=factorised"])


def test_a_scorer_of_images_alone_is_not_asked_for_edits():
    scorer = "rewards.scorers=[{name: verifier, kind: verifier}, {name: clip, kind: clip, of: edit}]"
    with pytest.raises(RecipeError, match="scorers of kind 'clip' score images alone"):
        load_recipe(CONFIGS / "shapes-smoke.yaml", [scorer])


@pytest.mark.parametrize(
    ("scorer", "says"),
    [
        ("kind: form", "scorers of kind 'form' score reflections alone; images are scored by verifier, clip"),
        ("kind: jpeg, of: group", "score images alone; groups are scored by judge, mllm"),
        ("kind: verifier, of: group", "score images and reflections and statements and edits alone"),
        ("kind: mllm", "path: name the folder of the model; a run trains no scorers of kind 'mllm'"),
        ("kind: jpeg, path: /m", "path: not a setting of scorers of kind 'jpeg'"),
        ("kind: jpeg, when: {tag: {a: 1}}", "when"),
    ],
)
def test_what_a_kind_of_scorer_cannot_do_is_said(scorer, says):
    with pytest.raises(RecipeError, match=says):
        load_recipe(
            CONFIGS / "shapes-smoke.yaml", [f"rewards.scorers=[{{name: v, kind: verifier}}, {{name: x, {scorer}}}]"]
        )


def test_a_scorer_for_all_prompts_changes_no_digest():
    scorers = "rewards.scorers=[{name: verifier, kind: verifier%s}]"
    plain, same, other = (
        load_recipe(CONFIGS / "shapes-smoke.yaml", [scorers % more])
        for more in ("", ", when: {}", ", when: {tag: counting}")
    )
    assert plain.digest() == same.digest() != other.digest()
    assert other.model_dump()["rewards"]["scorers"][0]["when"] == {"tag": "counting"}


@pytest.mark.parametrize("text", ["'0'", "words", "", "3", "[1]", "\ufeffname: 3"])
def test_a_file_that_holds_no_settings_is_said_to_hold_none(tmp_path, text):
    """A quoted word was an AssertionError without a message."""
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match="r.yaml"):
        load_recipe(tmp_path / "r.yaml")


def test_an_alarm_keeps_its_threshold_when_only_its_deed_is_given_and_changes_no_digest():
    plain, stopping = (
        load_recipe(CONFIGS / "shapes-rl.yaml", more)
        for more in ([], ["rl.alarms.held_out.do=stop", "rl.alarms.sharpness.do=off"])
    )
    alarms = stopping.require_rl().alarms
    assert (alarms.held_out.do, alarms.sharpness.do, alarms.dark_share.do) == ("stop", "off", "warn")
    assert alarms.held_out.threshold == plain.require_rl().alarms.held_out.threshold
    assert plain.digest() == stopping.digest() and "alarms" not in plain.model_dump()["rl"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["rl.alarms.held_out.do=shout"], "rl.alarms.held_out.do: Input should be 'warn', 'stop' or 'off'"),
        (["rl.alarms.dark_share.threshold=0"], "rl.alarms.dark_share.threshold: Input should be greater than 0"),
        (["rl.alarms.darkness.do=stop"], "rl.alarms.darkness: unknown setting"),
        (["rl.alarms.window=2"], "rl.alarms.window: Input should be greater than or equal to 4"),
        (["rl.alarms.held_out.do=stop", "rewards.scorers=[{name: v, kind: verifier}]", "rl.credit=turn"],
         "rl.alarms.held_out has no effect: no scorer of rewards.scorers has held_out: true"),
        (["rl.alarms.dark_share.do=stop", "rl.updates=9"], "an alarm can ring from update 12 on, and rl.updates is 9"),
    ],
)  # fmt: skip
def test_an_alarm_that_cannot_ring_or_is_not_known_is_an_error(overrides, says):
    with pytest.raises(RecipeError, match=re.escape(says)):
        load_recipe(CONFIGS / "shapes-rl.yaml", overrides)


def test_usual_alarms_are_no_error_in_short_runs_and_alarms_need_samples():
    load_recipe(CONFIGS / "shapes-rl.yaml", ["rl.updates=2", "rl.alarms.dark_share.do=off"])
    with pytest.raises(RecipeError, match=r"rl\.alarms has no effect with rl\.rollouts"):
        load_recipe(CONFIGS / "shapes-smoke.yaml", [*OFFLINE, "rl.alarms.dark_share.do=stop"])
