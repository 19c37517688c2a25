"""Reward functions of trl as scorers, and scorers as reward functions, both with the installed trl."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image as PILImage
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import get_repetition_penalty_reward, think_format_reward

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.base import ScorerUnavailable
from rewards.hub import RewardHub
from rewards.texts import LengthScorer, RepetitionScorer, length
from rewards.trl_functions import trl_reward
from tests.rewards.scorers import Brightness, Wordy

HERE = "tests.rewards.functions"
IMAGES = [np.full((4, width, 3), 51 * width, np.uint8) for width in (1, 2, 3)]
PROMPTS = [Prompt(str(number), text, {"solution": text}) for number, text in enumerate(("a", "bb", "ccc"))]


def scores(kind: str, texts: list[str], **options):
    hub = RewardHub([{"name": "own", "kind": kind, "of": "reflection", **options}])
    return hub.score_reflections(IMAGES, PROMPTS, texts)["own"]


def test_a_reward_function_of_trl_scores_reflections_as_it_scores_completions():
    texts = ["<think> a </think> b", "a", "<think> a"]
    asked = [[{"role": "assistant", "content": text}] for text in texts]
    assert scores("trl.rewards:think_format_reward", texts) == think_format_reward(asked) == [1.0, 0.0, 0.0]


def test_fields_of_the_metadata_are_columns_of_the_data_set():
    assert scores(f"{HERE}:agrees", ["a", "bb", "c"]) == [1.0, 1.0, 0.0]
    lacking = RewardHub([{"name": "own", "kind": f"{HERE}:agrees", "of": "reflection"}])
    with pytest.raises(ScorerUnavailable, match="'own': its function needs solution: no prompt has such a field"):
        lacking.score_reflections(IMAGES[:1], [Prompt("p", "a")], ["a"])


def test_texts_may_be_given_instead_of_messages_and_images_are_there():
    assert scores(f"{HERE}:plain", ["", "x", "xx"], conversational=False) == [1 + 0 + 1, 2 + 1 + 2, 3 + 2 + 3]


def test_token_ids_are_those_of_the_model_s_tokenizer(world, tmp_path):
    world.tokenizer.save(tmp_path)
    texts = ["red red red red", "a red circle", ""]
    ids = [world.tokenizer.encode(text) for text in texts]
    expected = get_repetition_penalty_reward(ngram_size=1)(ids)
    assert scores(f"{HERE}:penalty", texts, tokenizer=str(tmp_path)) == expected and min(expected) < 0
    with pytest.raises(InputError, match="its function reads completion_ids: name the model's folder"):
        scores(f"{HERE}:penalty", texts)


def test_scorers_that_score_no_texts_are_refused_by_trl_reward():
    with pytest.raises(InputError, match="'b' scores no texts"):
        trl_reward(Brightness("b"))


def test_a_scorer_that_looks_gets_the_first_image_of_each_row():
    reward = trl_reward(Wordy("truth"))
    shown = [PILImage.fromarray(np.full((2, 2, 3), level, np.uint8)) for level in (51, 255)]
    said = [[{"role": "assistant", "content": text}] for text in ("ab", "abc")]
    found = reward(prompts=["p", "q"], completions=said, images=[[image] for image in shown], trainer_state=None)
    assert found == pytest.approx([2 - 0.2, 3 - 1.0])
    assert reward(prompts=["p", "q"], completions=said, image=shown) == found
    with pytest.raises(InputError, match="'truth' looks at images: the data set needs a column `images`"):
        reward(prompts=["p", "q"], completions=said)


def test_a_failed_score_stays_none_for_trl():
    class Half(RepetitionScorer):
        def score_texts(self, texts):
            return [None if text == "?" else 1.0 for text in texts]

    assert trl_reward(Half())(prompts=["p", "p"], completions=["?", "a"]) == [None, 1.0]


def test_trls_trainer_learns_from_a_scorer_and_logs_it_by_name(world, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    tokenizer = world.tokenizer._qwen
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    seen: list[str] = []

    class Watched(LengthScorer):
        def score_texts(self, texts):
            seen.extend(texts)
            return super().score_texts(texts)

    settings = GRPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, max_steps=1, per_device_train_batch_size=4,
        num_generations=4, max_completion_length=6, report_to=[], logging_steps=1, save_strategy="no",
        gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model, reward_funcs=[trl_reward(Watched(most=1, margin=4, name="short"))], args=settings,
        train_dataset=Dataset.from_dict({"prompt": ["red circle", "blue square"]}), processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    [logged] = [entry for entry in trainer.state.log_history if "rewards/short/mean" in entry]
    own = [length(text, most=1, margin=4) for text in seen]
    assert len(own) == 4 and logged["rewards/short/mean"] == pytest.approx(sum(own) / 4, abs=1e-6)

