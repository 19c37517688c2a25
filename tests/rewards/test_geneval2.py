"""GenEval 2's questions, from the metadata of prompts, as a scorer."""

import math

import numpy as np
import pytest

from irg_rl.trajectory import Prompt
from rewards.base import ScorerUnavailable
from rewards.geneval2 import GenEval2Scorer
from tests.rewards.servers import completion, endpoint, spoken

PAIRS = [["How many cats are there?", "two"], ["What color are the cats?", "black"]]
PROMPT = Prompt("a", "two black cats", {"vqa_list": PAIRS})
FAST = {"backoff": 0.01, "timeout": 5.0, "retries": 0}
IMAGE = np.zeros((8, 8, 3), dtype=np.uint8)


def judge(number, body):
    text = body["messages"][0]["content"][-1]["text"]
    top = {"Two": 0.5, "2": 0.3, "Three": 0.2} if "How many" in text else {"Black": 0.2, "Brown": 0.8}
    top = {"Yes": 1.0} if "grey" in text else top
    return 200, completion(next(iter(top)), {token: math.log(p) for token, p in top.items()}), 0.0


@pytest.mark.parametrize(("how", "score"), [("mean", 0.5), ("geometric", 0.4)])
def test_the_score_is_the_mean_of_the_probabilities_of_the_right_words(how, score):
    with endpoint(judge) as (url, requests):
        scorer = GenEval2Scorer(url, aggregate=how, **FAST)
        scorer.check()
        assert scorer.score([IMAGE], [PROMPT]) == [pytest.approx(score)]
    body = requests[-1][1]
    assert body["max_tokens"] == 1 and body["top_logprobs"] == 20
    assert body["messages"][0]["content"][-1]["text"].endswith("? Answer in one word.")


@pytest.mark.parametrize("answer", [
    completion("Two"),
    spoken("Two", ("<think>", {"<think>": 0.0}), ("Two", {"Two": 0.0})),
    spoken("Two", ("\n", {"\n": 0.0}), ("Two", {"Two": 0.0})),
    completion("<think>", {"<think>": 0.0}),
    completion("Two", {"Two": math.nan}),
    completion("Two", {"Two": 0.0, "2": 0.0}),
    completion(""), {}, "x",
])  # fmt: skip
def test_without_the_probabilities_of_the_first_word_it_fails_and_is_no_zero(answer):
    with endpoint(lambda number, body: (200, answer, 0.0)) as (url, _):
        scorer = GenEval2Scorer(url, **FAST)
        assert scorer.score([IMAGE], [PROMPT]) == [None] and scorer.last_error
        with pytest.raises(ScorerUnavailable):
            scorer.check()


@pytest.mark.parametrize("metadata", [
    {}, {"vqa_list": []}, {"vqa_list": "How many?"}, {"vqa_list": [["How many?"]]}, {"vqa_list": [["How many?", 2]]},
    {"vqa_list": [["How many?", " "]]}, {"vqa_list": PAIRS * 40},
])  # fmt: skip
def test_a_prompt_without_questions_fails_with_a_reason(metadata):
    with endpoint(judge) as (url, requests):
        scorer = GenEval2Scorer(url, **FAST)
        assert scorer.score([IMAGE, IMAGE], [Prompt("odd", "cats", metadata), PROMPT]) == [None, pytest.approx(0.5)]
        assert len(requests) == 2
    assert "prompt 'odd' has no metadata field 'vqa_list'" in scorer.last_error and "`when`" in scorer.last_error
