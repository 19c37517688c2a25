"""Prompts: sentences over a small vocabulary, sets of constraints, and splits that never share a set.

The split belongs to the *set of constraints*, not to the sentence: two phrasings of one set, or the same relation said
from the other side, are always in the same split. The six GenEval tasks have few sets, so these are listed, ordered
by their hash and dealt out by rank (train, validation and test get some of every task). Scenes are split by their hash
alone; a part of those with three constraints or more is the split `hard`. Train says a set in many ways; in the other
splits, which measure, every prompt has a set of its own.
"""

import json
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

SPLITS = ("train", "validation", "test", "hard")
LISTED = {"validation": 0.1, "test": 0.2}
"""Share of the listed sets of a task; the rest is train."""
SCENES = {"train": 0.7, "validation": 0.1, "test": 0.1, "hard": 0.1}
"""Share of the hashes of scenes. Test also gets the part of `hard` that asks for two constraints."""
HARD = (3, 4, 5, 6)
"""Numbers of constraints in the split `hard`."""
TRAIN_MIX = {tag: 2.0 if tag == "scene" else 1.0 for tag in TAGS}
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
PATIENCE = 20000  # scenes drawn in a row without a new set of the split, after which they count as used up

Sets = tuple[list[tuple[Thing, int]], list[Relation]]


def make_prompts(n: int, split: str, seed: int, mix: dict[str, float] | None = None) -> list[Prompt]:
    """`n` prompts of a split.

    `mix` has the weight of each task; None: equal parts, in train scenes twice. In train a task with few sets repeats
    them, and prompts are in random order. Elsewhere no set comes twice, and `set` of the metadata names it: a task
    whose sets are used up yields fewer prompts, and the others fill its place. Tasks take turns, so the first prompts
    of a long list are those of a short one. `hard` has scenes alone, in equal parts by their number of constraints,
    whatever the mix.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    if unknown := set(mix or {}) - set(TAGS):
        raise InputError(f"unknown task {sorted(unknown)[0]!r} in the mix: use {', '.join(TAGS)}")
    rng = random.Random(f"{seed}-{split}")
    weights, sources = _sources(split, mix, rng)
    chosen: list[dict] = []
    taken = dict.fromkeys(sources, 0)
    while len(chosen) < n:
        if not sources:
            raise InputError(f"the {split} split has only {len(chosen)} different sets for this mix, not {n}")
        name = min(sources, key=lambda name: (taken[name] + 1) / weights[name])
        metadata = next(sources[name], None)
        if metadata is None:
            del sources[name]
            continue
        taken[name] += 1
        chosen.append(metadata)
    if split == "train":
        rng.shuffle(chosen)
    return [Prompt(f"{split}-{index:05d}", item["prompt"], item) for index, item in enumerate(chosen)]


def split_of(metadata: dict) -> str:
    """The split that the metadata's set of constraints belongs to."""
    return _split_of_key(metadata_key(metadata))


def set_name(key: str) -> str:
    """The set of a canonical key in words: `1 red ring, 2 bar; red ring above bar`."""
    includes, relations = json.loads(key)
    things = ", ".join(f"{count} {Thing(*thing)}" for thing, count in includes)
    return "; ".join([things, *(f"{Thing(*first)} {name} {Thing(*second)}" for first, name, second in relations)])


def _sources(
    split: str, mix: dict[str, float] | None, rng: random.Random
) -> tuple[dict[str, float], dict[str, Iterator[dict]]]:
    """Weight and metadata, one after the other, of each kind of prompt in the split."""
    if split == "hard":
        used: set[str] = set()
        kinds = {str(number): _each_once("scene", _scenes(split, used, rng, number), used, rng) for number in HARD}
        return dict.fromkeys(kinds, 1.0), kinds
    weights = mix or (TRAIN_MIX if split == "train" else dict.fromkeys(TAGS, 1.0))
    tags = [tag for tag, weight in weights.items() if weight > 0]
    if split == "train":
        return weights, {tag: _endless(tag, rng) for tag in tags}
    used = set()
    sets = {tag: _scenes(split, used, rng) if tag == "scene" else _shuffled(tag, split, rng) for tag in tags}
    return weights, {tag: _each_once(tag, sets[tag], used, rng) for tag in tags}


def _endless(tag: str, rng: random.Random) -> Iterator[dict]:
    """Metadata of a task in train: its sets again and again, each time in other words."""
    sets = None if tag == "scene" else [item for item in _listed(tag) if _split_of_key(canonical_key(*item)) == "train"]
    waiting: list[Sets] = []
    while True:
        if sets is None:
            item = _random_scene(rng)
            if _split_of_key(canonical_key(*item)) != "train":
                continue
        else:
            waiting = waiting or rng.sample(sets, len(sets))
            item = waiting.pop()
        yield phrase(tag, *item, rng)


def _each_once(tag: str, sets: Iterator[Sets], used: set[str], rng: random.Random) -> Iterator[dict]:
    """Metadata of the sets; `used` are the keys of all that were given out, of all tasks."""
    for item in sets:
        key = canonical_key(*item)
        used.add(key)
        yield phrase(tag, *item, rng) | {"set": set_name(key)}


def _shuffled(tag: str, split: str, rng: random.Random) -> Iterator[Sets]:
    """The listed sets of a task and split."""
    sets = [item for item in _listed(tag) if _split_of_key(canonical_key(*item)) == split]
    yield from rng.sample(sets, len(sets))


def _scenes(split: str, used: set[str], rng: random.Random, wanted: int | None = None) -> Iterator[Sets]:
    """New sets of scenes, with `wanted` constraints; those that are a set of another task are left to it."""
    misses = 0
    while misses < PATIENCE:
        item = _random_scene(rng, wanted)
        key = canonical_key(*item)
        if key in _dealt() or key in used or _split_of_key(key) != split:
            misses += 1
            continue
        misses = 0
        yield item


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
        sizes = {name: max(1, round(share * len(keys))) for name, share in LISTED.items()}
        for name, size in sizes.items():
            splits |= dict.fromkeys(keys[:size], name)
            keys = keys[size:]
        splits |= dict.fromkeys(keys, "train")
    return splits


def _split_of_key(key: str) -> str:
    if key in _dealt():
        return _dealt()[key]
    fraction = stable_fraction(key)
    for name, share in SCENES.items():
        if fraction < share:
            return "test" if name == "hard" and sum(map(len, json.loads(key))) not in HARD else name
        fraction -= share
    return "train"


def _random_scene(rng: random.Random, wanted: int | None = None) -> Sets:
    """2 to 6 constraints, or `wanted`: two to four includes, at most two relations between things that are alone of
    their kind."""
    wanted = rng.randint(2, 6) if wanted is None else wanted
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
