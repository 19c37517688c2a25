"""Prompts are split into questions once, a judge answers them, and whatever fails has a reason."""

import json
import math

import numpy as np
import pytest

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.base import ScorerUnavailable
from rewards.build import ScorerSpec, build_scorer
from rewards.decomposed import DecomposedScorer
from rewards.splitting import Splitter, parse_split
from tests.rewards.servers import completion, endpoint

PROMPTS = [Prompt("a", "two red circles"), Prompt("b", "a blue bar")]
SPLITS = {"two red circles": ["Are there two circles?", "Are the circles red?"], "a blue bar": ["Is there a blue bar?"]}
YES = {"Are there two circles?": 0.9, "Are the circles red?": 0.5, "Is there a blue bar?": 0.2}
FAST = {"backoff": 0.01, "timeout": 5.0, "retries": 0}


def image(level):
    return np.full((8, 8, 3), level, dtype=np.uint8)


def text_of(body):
    return body["messages"][0]["content"][-1]["text"]


def judge(number, body):
    """A server that splits prompts and judges images."""
    text = text_of(body)
    if "Split it into questions" in text:
        return 200, completion(json.dumps(next((s for p, s in SPLITS.items() if f'"{p}"' in text), ["Is it?"]))), 0.0
    p = YES.get(text.removesuffix(" Answer yes or no."), 0.5)
    return 200, completion("yes", {"yes": math.log(p), "no": math.log(1 - p)}), 0.0


@pytest.mark.parametrize(("how", "scores"), [("mean", [0.7, 0.2]), ("product", [0.45, 0.2])])
def test_the_score_is_the_mean_or_the_product_over_the_questions(tmp_path, how, scores):
    with endpoint(judge) as (url, requests):
        scorer = DecomposedScorer(url, tmp_path, aggregate=how, **FAST)
        assert scorer.score([image(1), image(1)], PROMPTS) == pytest.approx(scores)
    split = [body for _, body, _ in requests if "Split it" in text_of(body)]
    assert len(split) == 2 and all(body["max_tokens"] == 1024 and "logprobs" not in body for body in split)
    assert all(len(body["messages"][0]["content"]) == 1 for body in split), "no image is shown for splitting"


def test_a_prompt_is_split_once_also_by_later_runs_and_anew_for_another_template_or_model(tmp_path):
    def splits(requests):
        return sum("Split it" in text_of(body) or "Parts of" in text_of(body) for _, body, _ in requests)

    with endpoint(judge) as (url, requests):
        for level in (1, 2):
            DecomposedScorer(url, tmp_path, **FAST).score([image(level)] * 2, [PROMPTS[0]] * 2)
        assert splits(requests) == 1
        DecomposedScorer(url, tmp_path, model="other", **FAST).score([image(3)], PROMPTS[:1])
        assert splits(requests) == 2
        other = "Parts of {prompt}"
        found = DecomposedScorer(url, tmp_path, split_question=other, **FAST).score([image(3)], PROMPTS[:1])
        assert splits(requests) == 3 and found == [None]
    kept = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert [one["questions"] for one in kept] == [SPLITS["two red circles"]] * 2, "a failure is not kept"
    assert {one["model"] for one in kept} == {"judge", "other"} and kept[0]["prompt"] == "two red circles"


def test_a_damaged_file_is_split_again(tmp_path):
    with endpoint(judge) as (url, requests):
        DecomposedScorer(url, tmp_path, **FAST).score([image(1)], PROMPTS[:1])
        (path,) = tmp_path.iterdir()
        path.write_text(json.dumps({"questions": []}))
        assert DecomposedScorer(url, tmp_path, **FAST).score([image(1)], PROMPTS[:1]) == [pytest.approx(0.7)]
        assert json.loads(path.read_text())["questions"] == SPLITS["two red circles"]


def test_one_question_without_an_answer_fails_its_image_alone(tmp_path):
    def half(number, body):
        return (200, completion("perhaps"), 0.0) if "circles red" in text_of(body) else judge(number, body)

    with endpoint(half) as (url, _):
        scorer = DecomposedScorer(url, tmp_path, **FAST)
        assert scorer.score([image(1), image(1)], PROMPTS) == [None, pytest.approx(0.2)]
    assert "'Are the circles red? Answer yes or no.'" in scorer.last_error and "perhaps" in scorer.last_error


def test_a_prompt_that_is_not_split_fails_with_a_reason_and_others_do_not(tmp_path):
    def garbled(number, body):
        is_split = "Split it" in text_of(body) and "two red" in text_of(body)
        return (200, completion("1. Are there two circles?"), 0.0) if is_split else judge(number, body)

    with endpoint(garbled) as (url, _):
        scorer = DecomposedScorer(url, tmp_path, **FAST)
        assert scorer.score([image(1), image(1)], PROMPTS) == [None, pytest.approx(0.2)]
    assert scorer.last_error.startswith("the prompt 'two red circles' is not split: ")


@pytest.mark.parametrize(("answer", "reason"), [
    ("", "not JSON"),
    ("Sure! Here they are", "not JSON"),
    ('["Is it red?"', "not JSON"),
    ('{"questions": ["Is it red?"]}', "no list"),
    ("[]", "0 questions"),
    (json.dumps([f"Is it {n}?" for n in range(5)]), "5 questions where a list of 1 to 4"),
    ('["It is red."]', "is not a question"),
    ('["?"]', "is not a question"),
    ('["Is it red?", 3]', "3 is not a question"),
    (json.dumps(["x" * 300 + "?"]), "at most 300 characters"),
    ('["Is it red?", "Is it red?"]', "twice"),
    ('["Is it \\ud800?"]', "surrogate"),
])  # fmt: skip
def test_a_malformed_split_says_what_is_wrong(answer, reason):
    with pytest.raises(InputError, match=reason):
        parse_split(answer, most=4)


def test_a_code_block_around_the_list_is_removed():
    assert parse_split('```json\n["Is it red?"]\n```', most=4) == ["Is it red?"]
    assert parse_split(' [" Is it red? "] ', most=1) == ["Is it red?"]
    assert parse_split('["是红色的吗？"]', most=1) == ["是红色的吗？"]


def test_a_language_model_of_its_own_splits_and_the_judge_answers(tmp_path):
    with endpoint(judge) as (url, judged), endpoint(judge) as (other, split):
        settings = {"base_url": other, "model": "writer", "max_tokens": 77}
        scorer = DecomposedScorer(url, tmp_path, splitter=settings, **FAST)
        scorer.check()
        assert scorer.score([image(1)], PROMPTS[:1]) == [pytest.approx(0.7)]
    assert [body["model"] for _, body, _ in split] == ["writer"] * 2 and split[0][1]["max_tokens"] == 77
    assert all("Split it" not in text_of(body) for _, body, _ in judged)
    assert len(list(tmp_path.iterdir())) == 1, "what check splits is not kept"


def test_check_names_a_server_that_cannot_split(tmp_path):
    says = "is not split.*correct base_url or splitter"
    yes = lambda number, body: (200, completion("yes"), 0.0)  # noqa: E731
    with endpoint(yes) as (url, _), pytest.raises(ScorerUnavailable, match=says):
        DecomposedScorer(url, tmp_path, **FAST).check()


@pytest.mark.parametrize(("options", "message"), [
    ({}, "needs the option 'split_folder'"),
    ({"split_folder": "s", "splitter": {"model": "m"}}, "splitter needs the setting base_url"),
    ({"split_folder": "s", "splitter": {"base_ulr": "m"}}, "no setting 'base_ulr'; did you mean base_url"),
    ({"split_folder": "s", "splitter": {"base_url": "http://h/v1", "timeout": "long"}}, "option timeout"),
    ({"split_folder": "s", "splitter": {"base_url": "http://h/v1", "logprobs": True}}, "no setting 'logprobs'"),
    ({"split_folder": "s", "split_question": "Split it."}, "lacks {prompt}"),
    ({"split_folder": "s", "most_questions": 0}, "option most_questions"),
    ({"split_folder": "s", "aggregate": "median"}, "option aggregate"),
    ({"split_folder": "s", "agregate": "mean"}, "did you mean 'aggregate'"),
])  # fmt: skip
def test_wrong_settings_are_named(options, message):
    spec = {"name": "parts", "kind": "decomposed", "base_url": "http://127.0.0.1:1/v1"}
    with pytest.raises(InputError, match=message):
        build_scorer(ScorerSpec.from_dict(spec | options))


def test_braces_in_a_prompt_are_plain_text(tmp_path):
    with endpoint(judge) as (url, requests):
        splitter = Splitter({"base_url": url}, "Split it into questions: {prompt} {most}", 4, tmp_path)
        splitter.ask("a {most} {prompt}")
    assert text_of(requests[0][1]) == "Split it into questions: a {most} {prompt} 4"
