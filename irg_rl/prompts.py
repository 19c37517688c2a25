"""Reads and writes prompt files: JSON lines with a `prompt` and, optionally, its `id` and `metadata`.

Prompt files of GenEval, a benchmark for text-to-image models, can be read too: they have `tag`, `include` and `exclude`
next to `prompt`. All fields other than `id`, `prompt` and `metadata` are added to the metadata.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from irg_rl.errors import InputError
from irg_rl.text_in import parse_json, read_lines, require_text
from irg_rl.trajectory import Prompt

MOST_CHARACTERS = 20_000
"""The largest number of characters of a prompt. A file with longer prompts is probably not a file of prompts."""
_FIELDS = {"id", "prompt", "metadata"}


def write_prompts(path: Path | str, prompts: Iterable[Prompt]) -> None:
    lines = [json.dumps({"id": p.id, "prompt": p.text, "metadata": p.metadata}) + "\n" for p in prompts]
    Path(path).write_text("".join(lines), encoding="utf-8")


def read_prompts(path: Path | str, check: Callable[[Prompt], object] = lambda prompt: None) -> list[Prompt]:
    """Read prompts from a JSON lines file with the fields `prompt` and, optionally, `id` (default: the line number) and
    `metadata`.

    check: a function that raises ValueError if a prompt is not acceptable. Raises InputError if a line is not valid or
    `check` raises ValueError. The message names the file and the line.
    """
    prompts: dict[str, Prompt] = {}
    for where, line in read_lines(path):
        prompt = _prompt(parse_json(line, where), where, where.rpartition(" ")[2])
        if prompt.id in prompts:
            raise InputError(f"{where}: the id {prompt.id!r} was used before; ids must differ")
        try:
            check(prompt)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        prompts[prompt.id] = prompt
    if not prompts:
        raise InputError(f"{path} has no prompts: write one JSON object with a `prompt` per line")
    return list(prompts.values())


def require_prompt(text: str, where: str) -> str:
    """Check the text of a prompt and return it. Raises InputError if the text is empty, too long or contains characters
    that are not allowed. `where` says where the prompt was read, such as a file and a line. The error message begins
    with `where`."""
    if not text.strip():
        raise InputError(f"{where}: needs a `prompt` that is a non-empty string")
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{where}: the prompt has {len(text)} characters, at most {MOST_CHARACTERS} are taken")
    return require_text(text, f"{where}: the prompt", control=False)


@dataclass(frozen=True)
class PromptOrder:
    """The order in which RL uses its prompts. A group is all trajectories that are sampled from one prompt. An epoch
    consists of N groups if there are N prompts. In every epoch, the prompts have a new random order.

    `mix` maps a kind of prompt to a weight. A kind is a tag (the field `tag` of the metadata), for example "scene". It
    can also be a tag with a number of constraints (the field `constraints`), for example "scene/3". If both kinds of a
    prompt have a weight, the narrower one counts. If none has, the weight is 1. A prompt with the weight 3 is used
    three times as often as a prompt with the weight 1. If all weights are equal, every prompt is used once in an epoch.
    """

    prompts: Sequence[Prompt]
    seed: int
    mix: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises InputError if no prompt belongs to a kind in `mix`, or if all weights are 0."""
        if not self.mix:
            return
        kinds = [_kinds(prompt) for prompt in self.prompts]
        if unknown := sorted(set(self.mix).difference(*kinds)):
            alike = {kind for of_prompt in kinds for kind in of_prompt if unknown[0].partition("/")[0] in of_prompt}
            known = ", ".join(sorted(alike or {of_prompt[-1] for of_prompt in kinds if of_prompt})) or "no tags"
            raise InputError(f"rl.prompt_mix: no prompt has the tag {unknown[0]!r}; the prompts have {known}")
        if not any(self._weights):
            raise InputError("rl.prompt_mix: the weights of all prompts are 0; give one tag a weight above 0")

    def __getitem__(self, group: int) -> Prompt:
        """Return the prompt from which group number `group` is sampled. The result depends only on the group's number,
        the prompts, the seed and the mix."""
        epoch, place = divmod(group, len(self.prompts))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.prompts))
        return self.prompts[int(self._chosen(epoch)[order[place]])]

    @cached_property
    def _weights(self) -> list[float]:
        return [
            next((self.mix[kind] for kind in _kinds(prompt) if kind in self.mix), 1.0) for prompt in self.prompts
        ]

    def _chosen(self, epoch: int) -> Int64[np.ndarray, "N"]:
        """Return the indices of the prompts of an epoch, in ascending order. A prompt occurs N w / W times, rounded up
        or down at random: N is the number of prompts, w the weight of the prompt, and W the sum of all weights
        (systematic sampling)."""
        n = len(self.prompts)
        if not self.mix:
            return np.arange(n)
        ends = np.cumsum(self._weights) * (n / sum(self._weights))
        start = np.random.default_rng([self.seed, epoch, 1]).random()
        return np.searchsorted(ends, start + np.arange(n), side="right").clip(max=n - 1)


def _kinds(prompt: Prompt) -> list[str]:
    """Return the kinds that a prompt belongs to, the narrowest first, for example ["scene/3", "scene"]. The list is
    empty if the prompt has no tag. Metadata of a user may be anything: a tag that is not a text counts as none."""
    tag, constraints = prompt.metadata.get("tag"), prompt.metadata.get("constraints")
    if not isinstance(tag, str) or not tag:
        return []
    return [f"{tag}/{constraints}", tag] if isinstance(constraints, int) else [tag]


def _prompt(entry: Any, where: str, default_id: str) -> Prompt:
    if not isinstance(entry, dict) or not isinstance(text := entry.get("prompt"), str):
        raise InputError(f"{where}: needs a `prompt` that is a non-empty string")
    metadata = entry.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise InputError(f"{where}: `metadata` is {metadata!r:.80}, it must be an object")
    beside = {name: value for name, value in entry.items() if name not in _FIELDS}
    return Prompt(_id(entry.get("id"), where, default_id), require_prompt(text, where), beside | (metadata or {}))


def _id(given: Any, where: str, default: str) -> str:
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise InputError(f"{where}: `id` is {given!r:.80}, it must be a word or a whole number")
    return require_text(str(given), f"{where}: `id`", control=False)
