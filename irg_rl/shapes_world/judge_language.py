"""Parses questions to the built-in judge. The questions are written in plain English. The result of parsing says what
an image must show.

The grammar of a question is:

    question := 'Does this image show "' prompt '"? ...' | 'Which image fits the description "' prompt '" better, ...'
              | 'Here is a text about this image: "' reflection '" Is everything true ...?'
              | 'The first image was changed ...: "' reflection '" Were all the changes made, ...?'
    prompt   := words with noun phrases in them: (a | an | two | ... | the) [colour] shape

If a relation ("left of", "above", ...) stands between two noun phrases, the image must satisfy this relation. A phrase
with "the", such as "the red circle", refers to an earlier phrase. All counts are exact: "two rings" means that there
are exactly two.
"""

import re
from dataclasses import dataclass

from irg_rl.shapes_world.constraints import Demand, Relation, Thing, make_metadata, parse_metadata
from irg_rl.shapes_world.scene import COLORS, RELATIONS, SHAPES

COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "the": 1}
NAMES = {name: shape for shape in SHAPES for name in (shape, shape + ("es" if shape.endswith("s") else "s"))}
PHRASE = re.compile(rf"\b({'|'.join(COUNTS)}) (?:({'|'.join(COLORS)}) )?({'|'.join(NAMES)})\b", re.IGNORECASE)
RELATION = re.compile(rf"\b({'|'.join(RELATIONS)})\b", re.IGNORECASE)
QUOTED = re.compile(r'"(.+)"', re.DOTALL)
OPENERS = {"please", "draw", "show", "photo", "picture", "image", "drawing", "of"}
FILLER = OPENERS | {"a", "an", "the", "and", "with", "is", "are", "to"}


class NotUnderstood(ValueError):
    """Raised if the judge cannot parse the question."""


@dataclass(frozen=True)
class AskedOfPrompt:
    """A question to the judge about a prompt. `demand` is what the prompt asks for, and `images` is the number of
    images, 1 or 2. With one image, the question is whether the image shows what the prompt asks for. With two images,
    the question is which image fits the prompt better."""

    images: int
    demand: Demand


@dataclass(frozen=True)
class AskedOfReflection:
    """A question to the judge about a reflection, a text that says what an image shows and what to change. `images` is
    the number of images, 1 or 2. With one image, the question is whether the text is true of the image. With two
    images, the question is whether the second image shows the changes."""

    images: int
    reflection: str


def parse_question(question: str) -> AskedOfPrompt | AskedOfReflection:
    """Parse a question to the judge. If the question quotes a prompt, the result says what the prompt demands of an
    image. If the question quotes a reflection, the result has the text of the reflection. The result also has the
    number of images in the question. Raises NotUnderstood if the question has none of the forms shown at the top of
    this module, or if its prompt cannot be parsed."""
    quoted = QUOTED.search(question)
    if quoted is None:
        raise NotUnderstood(f"nothing is quoted in {question[:120]!r}")
    around = (question[: quoted.start()] + question[quoted.end() :]).lower()
    if "1 or 2" in around:
        return AskedOfPrompt(2, parse_prompt(quoted[1]))
    if "yes or no" in around:
        if "changes made" in around:
            return AskedOfReflection(2, quoted[1])
        if "everything true" in around:
            return AskedOfReflection(1, quoted[1])
        return AskedOfPrompt(1, parse_prompt(quoted[1]))
    raise NotUnderstood(f"neither a yes/no question nor a choice between 1 and 2: {around[:120]!r}")


def parse_prompt(prompt: str) -> Demand:
    """Parse a prompt. Return what it asks for: the objects with their exact numbers, and the relations between the
    objects. Raises NotUnderstood if the prompt cannot be parsed."""
    things: list[tuple[Thing, int]] = []
    relations: list[Relation] = []
    previous, end = -1, 0
    for phrase in PHRASE.finditer(prompt):
        between = _between(prompt[end : phrase.start()], previous)
        article, color, name = phrase[1].lower(), phrase[2] and phrase[2].lower(), phrase[3].lower()
        index = _mention(things, Thing(NAMES[name], color), COUNTS[article], article == "the")
        if between:
            relations.append(Relation(previous, between, index))
        previous, end = index, phrase.end()
    if _between(prompt[end:], previous) or not things:
        raise NotUnderstood(f"no demand in {prompt[:120]!r}")
    counted = parse_metadata(make_metadata("", prompt, things, []))
    return Demand(counted.includes, counted.excludes, tuple(relations))


def _mention(things: list[tuple[Thing, int]], thing: Thing, count: int, refers_back: bool) -> int:
    """Return the index in `things` of the object that a noun phrase means. If the phrase begins with "the" and fits an
    earlier entry of `things`, return the index of this entry. In all other cases, add a new entry to `things` and
    return its index."""
    known = [seen for seen, _ in things]
    if refers_back and thing in known:
        return known.index(thing)
    if refers_back and thing.color is None:
        for index, seen in enumerate(known):
            if seen.shape == thing.shape:
                return index
    things.append((thing, count))
    return len(things) - 1


def _between(words: str, previous: int) -> str:
    """Return the relation named in the words between two noun phrases, or "" if there is none. `previous` is the index
    of the object before these words, or -1 if there is none. Raises NotUnderstood if there is an unknown word, or a
    relation without an object before it."""
    found = RELATION.search(words)
    rest = RELATION.sub(" ", words, count=1).lower()
    strange = [word for word in re.findall(r"[^\s,.]+", rest) if word not in FILLER]
    if strange:
        raise NotUnderstood(f"the word {strange[0]!r}")
    if found and previous < 0:
        raise NotUnderstood(f"{found[1]!r} of what?")
    return found[1].lower() if found else ""
