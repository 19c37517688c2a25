"""The model card and the adapter card of an exported model: where the model comes from, on what it was trained, and
what was measured.

A card states only what the files of the run say. Results have their intervals. Paths and secrets of this machine are
left out: of a folder only its name is shown.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from irg_rl.config import LoraRecipe, Recipe, adapters_of
from irg_rl.driver.run_folder import SFT_MODELS, Run
from irg_rl.errors import InputError
from irg_rl.redact import redact_text
from irg_rl.report.tables import cases
from irg_rl.text_in import read_json, read_text

_MEASURES = ("accuracy", "repair", "damage")
_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class Origin:
    """What the cards say about a model. `base` is the published name of the base model, such as
    ByteDance-Seed/BAGEL-7B-MoT. `licence` is None if it is not known. `stages` has the facts about each finished stage
    up to this model; it is empty if no run made the model. `evaluations` and `comparison` are the JSON files of the run
    about this model."""

    name: str
    recipe: Recipe
    base: str
    licence: str | None
    commit: str | None = None
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    comparison: dict[str, Any] | None = None


def origin_of(source: Path, recipe: Recipe, run: Run | None, base: str | None, licence: str | None) -> Origin:
    """Collect what is known about the model folder `source`. `run` is the run that made it, or None. `base` and
    `licence` replace the values that the files give."""
    start = source if run is None else None if recipe.init_from is None else Path(recipe.init_from)
    named = base or ("trained from random weights" if start is None else start.name)
    found = licence or (None if start is None else licence_of(start))
    if run is None:
        return Origin(source.name, recipe, named, found)
    facts = read_json(run.folder / "environment.json")
    commit = facts.get("commit") if isinstance(facts, dict) else None
    names = list(run.stages)
    until = names[: names.index(source.name) + 1] if source.name in names else names
    stages = {name: run.stages[name] for name in until if run.is_done(name) and not name.startswith("evaluate")}
    comparison = _json(run.folder / "evaluation" / "comparison.json", "comparison") if source.name == "rl" else None
    return Origin(
        f"{recipe.name}-{source.name}", recipe, named, found, commit, stages,
        list(_evaluations(run.folder / "evaluation", source.name)), comparison,
    )  # fmt: skip


def licence_of(folder: Path) -> str | None:
    """Return the licence that the model card of a folder states in its head. Return None if there is no card, or if it
    states none."""
    path = folder / "README.md"
    if not path.is_file():
        return None
    try:
        head = _FRONT.match(read_text(path).replace("\r\n", "\n"))
        stated = yaml.safe_load(head[1]) if head else None
    except (InputError, yaml.YAMLError):
        return None  # the card of another program may be anything, and the licence can be given
    name = stated.get("license") if isinstance(stated, dict) else None
    return name if isinstance(name, str) else None


def model_card(origin: Origin, parameters: int, has_adapter: bool) -> str:
    """Return the model card as Markdown with a YAML head, as Hugging Face's hub reads it."""
    return _render(
        "model_card.md.jinja", origin, parameters=parameters, has_adapter=has_adapter, facts=_facts(origin),
        data=_data(origin), results=[_result(evaluation) for evaluation in origin.evaluations],
        against=_against(origin.comparison), head=_head(origin, {"pipeline_tag": "any-to-any"}),
    )  # fmt: skip


def adapter_card(origin: Origin, config: dict[str, Any]) -> str:
    """Return the card of the adapters as Markdown. Its YAML head has the entries that peft writes. `config` is the
    content of adapter_config.json."""
    return _render(
        "adapter_card.md.jinja", origin, config=config, peft=version("peft"),
        head=_head(origin, {"library_name": "peft"}) | {"tags": [f"base_model:adapter:{origin.base}", "lora"]},
    )  # fmt: skip


def _render(template: str, origin: Origin, head: dict[str, Any], **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("irg_rl.export", "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=False,  # Markdown; nothing in it comes from outside of the user's own run
    )  # fmt: skip
    environment.filters["cell"] = _cell
    words = yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip()
    return redact_text(environment.get_template(template).render(origin=origin, head=words, **values))


def _head(origin: Origin, more: dict[str, Any]) -> dict[str, Any]:
    base = {} if origin.recipe.init_from is None else {"base_model": origin.base}
    return {"license": origin.licence or "other", **base, "tags": ["irg-rl", "bagel"], **more}


def _facts(origin: Origin) -> dict[str, str]:
    recipe = origin.recipe
    if not origin.stages:
        return {"base": _line(origin.base), "irg-rl": version("irg-rl")}
    facts: dict[str, Any] = {"base": origin.base, "recipe": recipe.name}
    facts |= {"digest of the recipe": recipe.digest(), "seed": recipe.seed}
    if recipe.rl is not None and "rl" in origin.stages:
        facts |= {"algorithm of RL": recipe.rl.algorithm, "credit": recipe.rl.credit, "seed of RL": recipe.rl_seed}
    for name, trained in recipe.trained.items():
        lora = adapters_of(trained)
        if lora is not None and _model_of(name) in origin.stages:
            facts[f"adapters of {name}"] = _adapters(lora)
    facts |= {"irg-rl": version("irg-rl"), "commit": origin.commit}
    facts |= {f"stage {name}": _stage(entry) for name, entry in origin.stages.items()}
    return {name: _line(value) for name, value in facts.items() if value is not None}


def _adapters(lora: LoraRecipe) -> str:
    return f"LoRA, rank {lora.rank}, alpha {lora.alpha}, on {' and '.join(lora.experts)}"


def _stage(entry: dict[str, Any]) -> str:
    steps = f"{entry['steps']} steps, " if "steps" in entry else ""
    return f"{steps}{entry['seconds'] / 60:.1f} minutes"


def _model_of(place: str) -> str:
    """Return the name of the model folder that a stage makes. `place` is the stage's place in the recipe: `rl`, or
    `sft.` and a name."""
    return SFT_MODELS.get(place.removeprefix("sft."), place)


def _data(origin: Origin) -> list[str]:
    """Return one line for each source of data: the rows of each SFT stage, the prompts of RL, and the scorers. Only
    names are given, because paths are those of this machine."""
    if not origin.stages:
        return ["Not known: the model was exported outside of a run."]
    recipe = origin.recipe
    lines = [f"Task: {recipe.task}."]
    if recipe.sft is not None:
        rows = "made by the task" if recipe.sft.data is None else f"from `{Path(recipe.sft.data).name}`"
        for name, stage in recipe.sft.stages.items():
            if _model_of(name) not in origin.stages:
                continue
            sources = ", ".join(f"{source.folder} ({source.weight:g})" for source in stage.sources)
            lines.append(f"SFT, {name}: rows {rows}, at most {stage.steps} steps; sources and weights: {sources}.")
    if recipe.rl is not None and "rl" in origin.stages:
        given = recipe.rl.prompts
        prompts = "the task's training prompts" if given is None else f"`{Path(given).name}`"
        scorers = ", ".join(f"{s.name} ({s.kind})" for s in recipe.rewards.scorers if not s.held_out)
        lines.append(f"RL: {recipe.rl.updates} updates on {prompts}; rewarded by {scorers}.")
    return [_line(line) for line in lines]


def _result(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return what the card shows of an evaluation: its settings and, for each arm and measure, one entry per turn."""
    arms = {}
    for arm, found in evaluation["arms"].items():
        measures = {name: found[name] for name in _MEASURES if any(found[name])}
        measures |= {f"mean score of {name}": turns for name, turns in found["rewards"].items()}
        arms[arm] = measures
    settings = evaluation["settings"]
    turns = max(len(turns) for measures in arms.values() for turns in measures.values())
    shown = {name: settings[name] for name in ("split", "prompts", "samples", "seed", "preset") if name in settings}
    said = ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)
    return {"name": evaluation["name"], "settings": said, "arms": arms, "turns": turns}


def _against(comparison: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [] if comparison is None else comparison["rows"]


def _cell(measure: dict[str, Any] | None) -> str:
    """Return a measured value with its interval and the number of its rows, as text for a table cell."""
    if measure is None or measure.get("value") is None:
        return "–"
    interval = "" if measure.get("low") is None else f" [{measure['low']:.3f}, {measure['high']:.3f}]"
    return f"{measure['value']:.3f}{interval} n={cases(measure)}"


def _evaluations(folder: Path, model: str) -> Iterator[dict[str, Any]]:
    for path in sorted({*folder.glob(f"{model}.json"), *folder.glob(f"eval-{model}-*.json")}):
        content = _json(path, "evaluation")
        if content is not None:
            yield content


def _json(path: Path, kind: str) -> dict[str, Any] | None:
    """Return the content of a JSON file of the run, or None if there is no such file. Raises InputError if it is not of
    this kind."""
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise InputError(f"{path} is no {kind} of irg-rl: remove it, or evaluate again")
    return content


def _line(value: Any) -> str:
    """Return a value as one line of Markdown, in which no character ends a table cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
