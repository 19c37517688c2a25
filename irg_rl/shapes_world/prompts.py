"""Makes prompts: sentences over a small vocabulary, each with the set of constraints that it states. The constraints of
a prompt are the objects that it asks for and the relations between them.

Prompts belong to splits (train, validation, test, hard), and no set of constraints is in two splits. The split depends
on the *set*, not on the sentence. So two sentences with the same set are always in the same split. For example, "a left
of b" and "b right of a" state the same constraint.

There are seven tasks (kinds of prompt). Six of them come from the GenEval benchmark and have few possible sets of
constraints. All sets of such a task are sorted by a hash. The sorted list is cut into three pieces for test, validation
and train. So each of these three splits gets some sets of every task. The seventh task, `scene`, has too many sets to
list. For a set of this task, the hash alone decides the split. The split `hard` gets some of the scenes with three or
more constraints.

In train, one set can be phrased in many ways. The other splits serve for measurement, and there every prompt has a
different set.
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
"""Maps a split to its share of the sets of constraints of each GenEval task (kind of prompt). A set of constraints is
all that a prompt asks for. The other sets belong to train."""
SCENES = {"train": 0.7, "validation": 0.1, "test": 0.1, "hard": 0.1}
"""Maps a split to its share of the sets of constraints of the task `scene`. A set of constraints is all that a prompt
asks for. A hash of a set decides to which split the set belongs. A set with fewer than three constraints is never in
`hard`: if its hash gives `hard`, the set goes to test."""
HARD = (3, 4, 5, 6)
"""Numbers of constraints that a prompt in the split `hard` can have. A constraint is a wanted kind of object or a
relation."""
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
PATIENCE = 20000  # after this many random scenes without a new set, the split counts as used up

Sets = tuple[list[tuple[Thing, int]], list[Relation]]


def make_prompts(n: int, split: str, seed: int, mix: dict[str, float] | None = None) -> list[Prompt]:
    """Return `n` prompts of a split (train, validation, test or hard).

    `mix` maps each task (kind of prompt) to its weight. If it is None, all tasks have equal weights, but in train the
    task `scene` counts twice. The tasks alternate in the list, and a task with a larger weight comes more often. In
    train, the order is random. In the other splits, a smaller `n` gives the beginning of the list that a larger `n`
    gives.

    The objects and relations that a prompt asks for are its set of constraints. In train, sets are repeated if a task
    has only few of them. In the other splits, no set occurs twice, and the field `set` of the metadata describes the
    set in words. If a task has no sets left, prompts of other tasks are used instead. The split `hard` ignores `mix`:
    all its prompts are scenes, and each number of constraints occurs equally often.

    Raises ValueError if the split is unknown. Raises InputError if `mix` names an unknown task, or if there are fewer
    than `n` different sets.
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
    """Return the name of the split, such as "train", for the metadata of a prompt. The split depends only on the set of
    constraints in the metadata. This set is all that the prompt asks for: objects and their relations."""
    return _split_of_key(metadata_key(metadata))


def set_name(key: str) -> str:
    """Return a description in words of a set of constraints (what a prompt asks for), such as `1 red ring, 2 bar; red
    ring above bar`. `key` is the text key of the set, made by `constraints.canonical_key`."""
    includes, relations = json.loads(key)
    things = ", ".join(f"{count} {Thing(*thing)}" for thing, count in includes)
    return "; ".join([things, *(f"{Thing(*first)} {name} {Thing(*second)}" for first, name, second in relations)])


def _sources(
    split: str, mix: dict[str, float] | None, rng: random.Random
) -> tuple[dict[str, float], dict[str, Iterator[dict]]]:
    """Return two dicts for a split. The first maps each task to its weight, and the second maps each task to an
    iterator over prompt metadata. For the split `hard`, the keys of both dicts are numbers of constraints instead of
    tasks."""
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
    """Yield the metadata of train prompts of one task (kind of prompt), without end. `tag` is the name of the task. The
    sets of constraints (what a prompt asks for) of the task are repeated, and each time the sentence is made anew."""
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
    """Yield the metadata of one prompt for each set of constraints (what a prompt asks for) in `sets`. Add the key of
    each set to `used`. All tasks share `used`, so it has the keys of the sets that any task has already used."""
    for item in sets:
        key = canonical_key(*item)
        used.add(key)
        yield phrase(tag, *item, rng) | {"set": set_name(key)}


def _shuffled(tag: str, split: str, rng: random.Random) -> Iterator[Sets]:
    """Yield the sets of constraints of a GenEval task (kind of prompt) that belong to this split, in random order. A
    set of constraints is all that a prompt asks for."""
    sets = [item for item in _listed(tag) if _split_of_key(canonical_key(*item)) == split]
    yield from rng.sample(sets, len(sets))


def _scenes(split: str, used: set[str], rng: random.Random, wanted: int | None = None) -> Iterator[Sets]:
    """Yield random sets of constraints (what a prompt asks for) for the task `scene` in this split. If `wanted` is
    given, each set has this number of constraints. Skip sets that are already used or belong to another task. Stop
    after PATIENCE tries in a row without a new set."""
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
    """Return a list of all possible sets of constraints (what a prompt asks for) of one of the six GenEval tasks.
    Raises ValueError if the task is unknown."""
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
    """Return a dict that maps the key of each set of constraints (what a prompt asks for) to the split to which the set
    belongs. It has all sets of the six GenEval tasks. The sets of a task are sorted by a hash, and the sorted list is
    divided by the shares in LISTED. Validation and test get at least one set of each task."""
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
    """Return a random set of constraints (what a prompt asks for) for the task `scene`: two to four different kinds of
    object, and at most two relations. Each kind and each relation is one constraint. The set has `wanted` constraints,
    or two to six if `wanted` is None. Objects in relations have the count one."""
    wanted = rng.randint(2, 6) if wanted is None else wanted
    relations = rng.randint(max(0, wanted - 4), (wanted - 1) // 2)
    things = _random_things(wanted - relations, rng)
    counts = [1] * len(things)
    for index in rng.sample(range(len(things)), len(things)):
        if index and index <= relations or relations and index == 0:
            continue  # things in relations keep the count one
        counts[index] = rng.randint(1, min(3, 1 + MAX_OBJECTS - sum(counts)))
    links = [Relation(index + 1, rng.choice(RELATIONS), rng.randint(0, index)) for index in range(relations)]
    return list(zip(things, counts)), links


def _random_things(n: int, rng: random.Random) -> list[Thing]:
    """Return `n` different things (shapes with or without a colour). If a shape occurs without a colour, no other thing
    has this shape."""
    things: list[Thing] = []
    while len(things) < n:
        thing = Thing(rng.choice(SHAPES), rng.choice(list(COLORS)) if rng.random() < 0.7 else None)
        clash = any(thing.shape == other.shape and (None in (thing.color, other.color)) for other in things)
        if not clash and thing not in things:
            things.append(thing)
    return things


def phrase(tag: str, includes: list[tuple[Thing, int]], relations: list[Relation], rng: random.Random) -> dict:
    """Return the metadata of a new prompt of the task `tag`. Its sentence asks for the objects in `includes`, which are
    pairs (thing, number), and for the relations between them. The order of the objects and the opening words of the
    sentence are random. Each entry of the metadata's `include` list has at most one `position`, which refers to an
    earlier entry."""
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
    """Return the relation in a form in which its first member is the later one of its two entries of `include`. If
    necessary, the relation is reversed, for example from "left of" to "right of". GenEval's evaluator expects this
    form."""
    return Relation(first, name, second) if first > second else Relation(second, MIRROR[name], first)


def _counted(thing: Thing, count: int) -> str:
    if count == 1:
        return f"a {thing}"
    return f"{NUMBERS[count]} {thing.color + ' ' if thing.color else ''}{PLURALS[thing.shape]}"


def _joined(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
