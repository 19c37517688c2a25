"""The embedded judge understands every sentence of the world, and says so when it does not understand."""

import pytest

from irg_rl.shapes_world.constraints import Relation, Thing, metadata_key, parse_metadata
from irg_rl.shapes_world.judge_language import NotUnderstood, parse_prompt, parse_question
from irg_rl.shapes_world.prompts import make_prompts
from rewards.questions import WHICH, YES_NO


def meaning(demand):
    """A demand without the order in which it was said."""
    includes = sorted(map(str, demand.includes))
    relations = sorted((str(demand.includes[a]), name, str(demand.includes[b])) for a, name, b in demand.relations)
    return includes, sorted(map(str, set(demand.excludes))), relations


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_words_are_parsed_back_into_the_metadata_they_were_made_from(split):
    prompts = make_prompts(400, split, seed=3)
    assert {prompt.metadata["tag"] for prompt in prompts} >= {"position", "counting", "color_attr", "scene"}
    for prompt in prompts:
        assert meaning(parse_prompt(prompt.text)) == meaning(parse_metadata(prompt.metadata)), prompt.text


def test_the_article_the_points_back_and_does_not_ask_for_another():
    demand = parse_prompt("draw a red ring, two bars and a circle. the red ring is left of the circle")
    assert demand.includes == ((Thing("ring", "red"), 1), (Thing("bar"), 2), (Thing("circle"), 1))
    assert demand.relations == (Relation(0, "left of", 2),)


def test_counts_are_exact():
    assert (Thing("bar", "blue"), 3) in parse_prompt("two blue bars").excludes


def test_both_questions_are_told_apart():
    assert parse_question(YES_NO.replace("{prompt}", "a red bar")).images == 1
    assert parse_question(WHICH.replace("{prompt}", "a red bar")).images == 2


@pytest.mark.parametrize(
    "question",
    [
        "Is this nice?",
        'Describe "a red bar".',
        'Does this image show "a purple elephant"? Answer yes or no.',
        'Does this image show "a red bar inside a ring"? Answer yes or no.',
        'Does this image show "left of a bar"? Answer yes or no.',
        'Does this image show ""? Answer yes or no.',
    ],
)
def test_what_the_judge_does_not_know_it_does_not_guess(question):
    with pytest.raises(NotUnderstood):
        parse_question(question)


def test_the_meaning_helper_tells_different_demands_apart():
    """Guards the test above."""
    assert meaning(parse_prompt("a bar above a ring")) != meaning(parse_prompt("a ring above a bar"))
    assert metadata_key(make_prompts(1, "train", 0)[0].metadata)
