"""What is mended in a teacher's text, and what counts as a mistake."""

import pytest

from irg_rl.config.data import TeacherRecipe
from irg_rl.config.data_questions import IRG_HEADINGS, REFLECT, THINK
from irg_rl.data.texts import Flaw, flaw_of, is_stop, mended, remark, seen_part, tagged
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.teacher import think_text
from tests.data.servers import DONE, FRENCH, PLAN, REFLECTION

TEACHER = TeacherRecipe(base_url="http://127.0.0.1:1/v1")
PROMPT = "a red bench left of a blue car in the rain"


def flaw(text: str, prompt: str = PROMPT, is_reflection: bool = False, **settings) -> Flaw | None:
    return flaw_of(text, prompt, THINK, TEACHER.model_copy(update=settings), is_reflection)


@pytest.mark.parametrize(("answer", "repairs"), [
    (PLAN, ()),
    (f"  {PLAN}\n", ()),
    (f"<think> {PLAN} </think>", ("tags",)),
    (f"<think>{PLAN}", ("tags",)),
    (f"<think>What do I see? Hills.</think>\n\n{PLAN}", ("thought",)),
    (f"Hills, I think.</think> {PLAN}", ("thought",)),
    (f"<think>Hm.</think> <think> {PLAN} </think>", ("tags",)),
    (f"```\n{PLAN}\n```", ("fence",)),
    (f"<think>Hm.</think>```text\n{PLAN}\n```", ("thought", "fence")),
])  # fmt: skip
def test_a_text_with_a_wrong_form_alone_is_mended(answer, repairs):
    found = mended(answer)
    assert (found.text, found.repairs) == (PLAN, repairs)


@pytest.mark.parametrize("line", [
    "## detailed explanation of required improvements", "**Detailed Explanation of Required Improvements:**",
    "1. Detailed Explanation Of Required Improvements:", "### **Detailed explanation of required improvements**",
])  # fmt: skip
def test_a_heading_with_other_marks_is_mended(line):
    found = mended(REFLECTION.replace(f"### {IRG_HEADINGS[0]}", line), IRG_HEADINGS)
    assert (found.text, found.repairs) == (REFLECTION, ("heading",))


def test_words_of_a_heading_inside_a_sentence_stay():
    sentence = f"The Step-by-Step Modification Guidance: is below.\n{REFLECTION}"
    assert mended(sentence, IRG_HEADINGS).text == sentence


@pytest.mark.parametrize(("text", "expected"), [
    (PLAN, None),
    ("", Flaw.EMPTY),
    ("...", Flaw.EMPTY),
    ("I'm sorry, but I can't describe this image.", Flaw.REFUSAL),
    ("I cannot help with that.", Flaw.REFUSAL),
    ("Sorry for the weather: the bench is wet, the car is blue.", None),
    (f"{PLAN}<|im_end|>", Flaw.SPECIAL),
    (f"{PLAN} <think> more", Flaw.SPECIAL),
    (FRENCH, Flaw.LANGUAGE),
    ("一张红色的长椅在蓝色汽车的左边，天空下着雨。", Flaw.LANGUAGE),
    (PROMPT, Flaw.PROMPT),
    (f"{PROMPT.title()}!", Flaw.PROMPT),
    (f"Draw {PROMPT}, please.", Flaw.PROMPT),
    (f"Draw {PROMPT}, seen from far away, with wet leaves.", None),
    (THINK.split('"')[2], Flaw.QUESTION),
])  # fmt: skip
def test_a_mistake_of_a_text_is_named(text, expected):
    assert flaw(text) is expected


def test_words_of_the_prompt_may_be_of_another_language():
    sign = "a shop sign with the words 今日は休みです明日も休みです"
    assert flaw("A wooden sign hangs over the door. It says 今日は休みです明日も休みです in white paint.", sign) is None


@pytest.mark.parametrize(("text", "expected"), [
    (REFLECTION, None),
    (DONE, None),
    (REFLECTION.replace(f"### {IRG_HEADINGS[0]}", ""), Flaw.SECTION),
    (REFLECTION.replace(f"### {IRG_HEADINGS[1]}", ""), Flaw.SECTION),
    (REFLECTION.partition("The light")[0] + REFLECTION.partition("differ more.")[2], Flaw.SECTION),
    (REFLECTION[REFLECTION.index("###"):], Flaw.SECTION),
    (f"{REFLECTION}\nNothing to change.", Flaw.CONTRADICTION),
])  # fmt: skip
def test_a_reflection_needs_its_sections_or_says_that_nothing_has_to_change(text, expected):
    assert flaw(text, is_reflection=True) is expected


def test_the_only_heading_may_not_be_missing():
    text = "The tree is small and the sky is grey, make it larger"
    assert flaw(text, is_reflection=True, headings=IRG_HEADINGS[:1]) is Flaw.SECTION


def test_the_texts_of_the_shapes_world_have_no_mistakes():
    for prompt in make_prompts(200, "train", seed=3):
        text = mended(think_text(prompt.metadata)).text
        assert flaw(text, prompt.text, headings=()) is None, (prompt.text, text)


def test_only_what_stands_before_the_headings_is_about_the_image():
    assert seen_part(REFLECTION, IRG_HEADINGS) == REFLECTION.splitlines()[0]
    assert seen_part(DONE, IRG_HEADINGS) == DONE


def test_the_stop_phrase_is_found_in_any_case_and_without_its_full_stop():
    assert is_stop("All is there: nothing to change!", "Nothing to change.")
    assert not is_stop(REFLECTION, "Nothing to change.")
    assert not is_stop("Nothing to change in the sky, but the tree must grow.", "Nothing to change.")


def test_a_reflection_that_keeps_a_part_is_no_contradiction():
    text = REFLECTION.replace(REFLECTION.splitlines()[0], "Nothing to change in the sky, but the hills are pale.", 1)
    assert flaw(text, is_reflection=True) is None


def test_tags_are_added_once():
    assert tagged("a plan") == "<think> a plan </think>" == tagged("<think> a plan </think>")


def test_the_teacher_is_told_its_mistake():
    assert "Write in German" in remark([Flaw.LANGUAGE], TEACHER.model_copy(update={"language": "de"}))
    assert len({remark([flaw], TEACHER) for flaw in Flaw}) == len(Flaw)
    assert remark([Flaw.EMPTY], TEACHER) != remark([Flaw.EMPTY, Flaw.EMPTY], TEACHER), "a third try asks anew"


def test_the_built_in_questions_have_all_their_place_holders():
    assert all(name in REFLECT for name in ("{prompt}", "{headings}", "{stop}", "{language}"))
