"""Time limits grow with the bytes of the weights."""

from irg_rl.config import load_recipe
from irg_rl.driver.limits import SLOWEST, START_S, bytes_in, saving_limit, sending_limit, start_limit
from irg_rl.driver.rl_settings import learner_settings
from irg_rl.learner.sizes import published_bytes, saved_bytes
from tests.paths import CONFIGS


def test_a_start_may_take_longer_the_more_is_read(tmp_path):
    recipe = load_recipe(CONFIGS / "shapes-smoke.yaml")
    (tmp_path / "model" / "part").mkdir(parents=True)
    (tmp_path / "model" / "a").write_bytes(bytes(300))
    (tmp_path / "model" / "part" / "b").write_bytes(bytes(30))
    assert bytes_in(tmp_path / "model") == 330 and bytes_in(tmp_path / "model" / "a") == 300
    assert start_limit(recipe, tmp_path / "model") == START_S + 330 / SLOWEST
    patient = load_recipe(CONFIGS / "shapes-smoke.yaml", ["engine.deadline_s=900"])
    assert start_limit(patient, tmp_path / "model", tmp_path / "missing") == 900 + 330 / SLOWEST


def test_sending_and_saving_may_take_longer_the_more_is_trained():
    recipe = load_recipe(CONFIGS / "bagel-grpo.yaml")
    weights = published_bytes(recipe.model, None)
    assert weights > 50e9  # 14.7 B parameters in fp32
    assert sending_limit(recipe, None) == recipe.engine.deadline_s + weights / SLOWEST
    assert saving_limit(recipe, None) == recipe.engine.deadline_s + saved_bytes(recipe.model, None) / SLOWEST
    assert learner_settings(recipe, "model").collective_timeout == saving_limit(recipe, None) > 1800
