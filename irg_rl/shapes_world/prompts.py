"""Prompts: sentences over a small vocabulary, sets of constraints, and splits that never share a set.

The split belongs to the *set of constraints*, not to the sentence: two phrasings of one set, or the same relation said
from the other side, are always in the same split. The six GenEval tasks have few sets, so these are listed, ordered
by their hash and dealt out by rank (every split gets some of every task); scenes are split by their hash alone.
"""

import random
from collections.abc import Iterator
from functools import cache
from itertools import combinations, permutations, product

from irg_rl.errors import InputError
from irg_rl.shapes_world.constraints import (
    MIRROR,
    NUMBERS,
    TAGS,
    Relation,
    Thing,
    canonical_key,
    make_metadata,
    metadata_key,
    stable_fraction,
)
from irg_rl.shapes_world.scene import COLORS, RELATIONS, SHAPES
from irg_rl.trajectory import Prompt

SPLITS = {"train": 0.7, "validation": 0.1, "test": 0.2}
DEFAULT_MIX = {tag: 2.0 if tag == "scene" else 1.0 for tag in TAGS}
PLURALS = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}
OPENERS = (
    "a photo of {}",
    "a picture of {}",
    "draw {}",
    "please draw {}",
    "an image of {}",
    "a drawing of {}",
    "show {}",
    "{}",
)
MAX_OBJECTS = 7
PATIENCE = 400  # draws without a new prompt after which a task counts as used up

Sets = tuple[list[tuple[Thing, int]], list[Relation]]


def make_prompts(n: int, split: str, seed: int, mix: dict[str, float] | None = None) -> list[Prompt]:
    """`n` prompts of a split, shares of the tasks by the weights of `mix` (scenes twice by default).

    In train a task with few sets repeats its sentences. In validation and test no sentence comes twice: a task that is
    used up yields fewer and the others fill its place; every set is used once before any gets a second phrasing.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    weights = DEFAULT_MIX if mix is None else mix
    if unknown := set(weights) - set(TAGS):
        raise InputError(f"unknown task {sorted(unknown)[0]!r} in the mix: use {', '.join(TAGS)}")
    rng = random.Random(f"{seed}-{split}")
    used: set[str] = set()
    sources = {tag: _source(tag, split, used, rng) for tag, weight in weights.items() if weight > 0}
    chosen: list[dict] = []
    taken: dict[str, int] = dict.fromkeys(sources, 0)
    while len(chosen) < n:
        if not sources:
            raise InputError(f"the {split} split has only {len(chosen)} different prompts for this mix, not {n}")
        tag = min(sources, key=lambda name: (taken[name] + 1) / weights[name])
        metadata = next(sources[tag], None)
        if metadata is None:
            del sources[tag]
            continue
        taken[tag] += 1
        chosen.append(metadata)
    rng.shuffle(chosen)
    return [Prompt(f"{split}-{index:05d}", item["prompt"], item) for index, item in enumerate(chosen)]


def split_of(metadata: dict) -> str:
    """The split that the metadata's set of constraints belongs to."""
    return _split_of_key(metadata_key(metadata))


def _source(tag: str, split: str, used: set[str], rng: random.Random) -> Iterator[dict]:
    """Metadata of a task and split, one after the other; ends when every sentence was used, except in train. `used`
    are the sentences of all tasks: small scenes may say the same as another task."""
    sets = None if tag == "scene" else [item for item in _listed(tag) if _split_of_key(canonical_key(*item)) == split]
    waiting: list[Sets] = []
    misses = 0
    while misses < PATIENCE:
        if sets is None:
            item = _random_scene(rng)
            if _split_of_key(canonical_key(*item)) != split:
                continue
        else:
            waiting = waiting or rng.sample(sets, len(sets))
            item = waiting.pop()
        metadata = phrase(tag, *item, rng)
        if split != "train" and metadata["prompt"] in used:
            misses += 1
            continue
        used.add(metadata["prompt"])
        misses = 0
        yield metadata


@cache
def _listed(tag: str) -> list[Sets]:
    """Every set of constraints of one of the six GenEval tasks, each once."""
    colored = [Thing(*pair) for pair in product(SHAPES, COLORS)]
    match tag:
        case "single_object":
            return [([(Thing(shape), 1)], []) for shape in SHAPES]
        case "colors":
            return [([(thing, 1)], []) for thing in colored]
        case "counting":
            return [([(thing, n)], []) for thing in [*map(Thing, SHAPES), *colored] for n in (2, 3, 4)]
        case "two_object":
            return [([(Thing(a), 1), (Thing(b), 1)], []) for a, b in combinations(SHAPES, 2)]
        case "color_attr":
            return [([(a, 1), (b, 1)], []) for a, b in combinations(colored, 2)]
        case "position":
            triples = [(a, b, name) for a, b in permutations(SHAPES, 2) for name in ("left of", "above")]
            return [([(Thing(a), 1), (Thing(b), 1)], [Relation(1, name, 0)]) for a, b, name in triples]
    raise ValueError(f"unknown task {tag!r}: use one of {', '.join(TAGS)}")


@cache
def _dealt() -> dict[str, str]:
    """Split of every listed set: within a task by rank of the hash, at least one set for each split."""
    splits = {}
    for tag in TAGS[:-1]:
        keys = sorted((canonical_key(*item) for item in _listed(tag)), key=stable_fraction)
        sizes = {name: max(1, round(share * len(keys))) for name, share in SPLITS.items() if name != "train"}
        for name, size in sizes.items():
            splits |= dict.fromkeys(keys[:size], name)
            keys = keys[size:]
        splits |= dict.fromkeys(keys, "train")
    return splits


def _split_of_key(key: str) -> str:
    if key in _dealt():
        return _dealt()[key]
    fraction = stable_fraction(key)
    for name, share in SPLITS.items():
        if fraction < share:
            return name
        fraction -= share
    return "train"


def _random_scene(rng: random.Random) -> Sets:
    """2 to 6 constraints: two to four includes, at most two relations between things that are alone of their kind."""
    wanted = rng.randint(2, 6)
    relations = rng.randint(max(0, wanted - 4), (wanted - 1) // 2)
    things = _random_things(wanted - relations, rng)
    counts = [1] * len(things)
    for index in rng.sample(range(len(things)), len(things)):
        if index and index <= relations or relations and index == 0:
            continue  # the ends of relations stay alone
        counts[index] = rng.randint(1, min(3, 1 + MAX_OBJECTS - sum(counts)))
    links = [Relation(index + 1, rng.choice(RELATIONS), rng.randint(0, index)) for index in range(relations)]
    return list(zip(things, counts)), links


def _random_things(n: int, rng: random.Random) -> list[Thing]:
    """Different things; a shape comes without colour at most once, and then not with colour too."""
    things: list[Thing] = []
    while len(things) < n:
        thing = Thing(rng.choice(SHAPES), rng.choice(list(COLORS)) if rng.random() < 0.7 else None)
        clash = any(thing.shape == other.shape and (None in (thing.color, other.color)) for other in things)
        if not clash and thing not in things:
            things.append(thing)
    return things


def phrase(tag: str, includes: list[tuple[Thing, int]], relations: list[Relation], rng: random.Random) -> dict:
    """Metadata with a sentence for a set of constraints; order and opener are random; an include has
    at most one position, which looks back to an earlier include."""
    while True:
        order = rng.sample(range(len(includes)), len(includes))
        links = [_looking_back(order.index(a), name, order.index(b)) for a, name, b in relations]
        if len({link.first for link in links}) == len(links):
            break
    includes = [includes[index] for index in order]
    if tag == "position":
        a, name, b = links[0]
        text = f"a {includes[a][0]} {name} a {includes[b][0]}"
    else:
        text = _joined([_counted(thing, count) for thing, count in includes])
        text += "".join(f". the {includes[a][0]} is {name} the {includes[b][0]}" for a, name, b in links)
    return make_metadata(tag, rng.choice(OPENERS).format(text), includes, links)


def _looking_back(first: int, name: str, second: int) -> Relation:
    """The same relation said of the later include, as GenEval's evaluator expects."""
    return Relation(first, name, second) if first > second else Relation(second, MIRROR[name], first)


def _counted(thing: Thing, count: int) -> str:
    if count == 1:
        return f"a {thing}"
    return f"{NUMBERS[count]} {thing.color + ' ' if thing.color else ''}{PLURALS[thing.shape]}"


def _joined(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
