"""The list of all stages of a run, in order, and the code that runs them.

A finished stage is skipped. An interrupted stage continues from its checkpoint. `STAGES` is the only list of stages.
All other code uses this list, for example the code for time budgets and the code for forks. (A fork is a new run that
starts from the SFT checkpoint of another run.)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from irg_rl import faults, stopping
from irg_rl.config import Recipe
from irg_rl.driver.alarm import tell_learning
from irg_rl.driver.compare import CONTINUED, compare_runs
from irg_rl.driver.evaluator import gate_of, measure_stage, shown_accuracies, shown_preference
from irg_rl.driver.offline_loop import learn_offline
from irg_rl.driver.own_trajectories import draw_refined
from irg_rl.driver.prepare import make_base, make_scorers, make_world
from irg_rl.driver.progress import console
from irg_rl.driver.rl_loop import reinforce
from irg_rl.driver.run_folder import SFT_MODELS, Run, RunError
from irg_rl.driver.sft import continue_sft, draw_own_images, require_finished, train_stage
from irg_rl.driver.watching import StoppedByAlarm
from irg_rl.errors import explain, is_expected
from irg_rl.evaluate.gate import NOT_JUDGED
from irg_rl.evaluate.suite import REAL
from irg_rl.report.build import build_report
from irg_rl.report.tracking import Tracker
from irg_rl.task import World, task_of

MEASURED_MINUTES = 5.0
"""How many minutes of budget the finished stages must have before their times say how fast this machine is."""
Body = Callable[[Run, Tracker, dict], None]
"""Type of the functions that run a stage. Such a function puts facts about the stage into the dict, which is then
stored in stages.json."""


@dataclass(frozen=True)
class RunStage:
    """One stage of a run: its name, the function that runs it, and the files and the model folder that it makes."""

    name: str
    needed: Callable[[Recipe], bool]
    """A function that returns whether a recipe has this stage."""
    run: Body
    files: tuple[str, ...] = ()
    """Patterns of the files and folders that the stage makes in the run folder. A fork of the run takes them over."""
    model: str | None = None
    """Name of the model folder that the stage makes, or None. A later stage starts from the model folder that was made
    last."""
    check: Callable[[Run], None] = lambda run: None
    """A function that is called before the stage, even if the stage is already done. It raises RunError if the run must
    stop here."""
    again: bool = False
    """Whether the stage runs every time, even if it is done."""


def _sft(section: str) -> RunStage:
    """Return the stage of a run that does the SFT described in `sft.<section>` of the recipe. `section` is `base`,
    `stage1` or `stage2`."""
    name = SFT_MODELS[section]

    def train(run: Run, tracker: Tracker, facts: dict) -> None:
        sft = run.recipe.sft
        assert sft is not None
        train_stage(run, name, start_of(run.recipe, name), sft.stages[section], tracker, facts)

    return RunStage(
        name, lambda recipe: recipe.sft is not None and section in recipe.sft.stages, train, (f"models/{name}",), name
    )


def _makes_own_rows(recipe: Recipe) -> bool:
    """Return whether the recipe has a stage between SFT stages 1 and 2 in which the model makes rows itself: from
    trajectories that a judge prefers (`sft.own`), or from first images that the task asks for."""
    return (recipe.sft is not None and recipe.sft.own is not None) or _draws_own_images(recipe)


def _make_own_rows(run: Run, tracker: Tracker, facts: dict) -> None:
    start = start_of(run.recipe, "own_images")
    if _draws_own_images(run.recipe):
        draw_own_images(run, start, facts)
    if run.recipe.require_sft().own is not None:
        draw_refined(run, start, facts)


def _draws_own_images(recipe: Recipe) -> bool:
    """Return whether the task lets the model draw first images between SFT stages 1 and 2. The recipe must have both
    SFT stages, and its task must make the SFT rows and ask for such images."""
    if recipe.sft is None or recipe.sft.data is not None or not {"stage1", "stage2"} <= recipe.sft.stages.keys():
        return False
    task = task_of(recipe)
    return isinstance(task, World) and task.own_images > 0


def _learn(run: Run, tracker: Tracker, facts: dict) -> None:
    rl = run.recipe.rl
    assert rl is not None
    learn = reinforce if rl.rollouts is None else learn_offline
    try:
        learn(run, start_of(run.recipe, "rl"), tracker, facts)
    except StoppedByAlarm:
        tell_learning(run)
        build_report(run.folder)
        raise
    tell_learning(run)


def _report(run: Run, tracker: Tracker, facts: dict) -> None:
    if run.recipe.rl is not None and run.recipe.sft is not None:
        compare_runs([run.folder])
    facts.update(path=str(build_report(run.folder)))


def evaluate(run: Run, name: str, tracker: Tracker, facts: dict) -> None:
    """Evaluate the model in the folder `name` of the run, and check the gate (whether refinement really helps). Save
    and print the results. Put the result of the gate into `facts`; the caller stores `facts` in stages.json."""
    measured = measure_stage(run, name, facts)
    gate = gate_of(run, measured.evaluation)
    evaluation = replace(measured.evaluation, gate=gate)
    evaluation.save(run.path("evaluation", "x").parent)
    if gate is not None:
        console.print(gate)
    for arm, table in evaluation.arms.items():
        console.print(f"{arm}: accuracy per turn {shown_accuracies(table)}")
    if told := shown_preference(evaluation.arms[REAL]):
        console.print(told)
    facts.update(gate=None if gate is None else gate.passed, failures=[] if gate is None else gate.failures)
    if gate is not None:
        facts.update(verdict=gate.verdict)
    tracker.log_samples(name, 0, measured.samples(run.recipe.evaluation.strips))


def check_gate_holds(run: Run, after: str) -> None:
    """Raise RunError if the gate stops the run after stage `after` (`sft` or `rl`). The gate checks whether refinement
    really helps. It stops the run under two conditions, which must both be true. The evaluation after this stage did
    not pass the gate. And the recipe says that the gate applies after this stage.

    After SFT, the error means that RL does not start. After RL, it means that the run ends with an error. If neither
    the recipe nor the task has thresholds, there is no gate, and `gate` in stages.json is null.
    """
    gate, entry = run.recipe.gate, run.stages.get(f"evaluate_{after}")
    if entry is None or entry.get("gate", False) in (True, None):
        return
    reasons = "; ".join(entry.get("failures", []))
    if gate.mode == "off" or gate.after != after:
        if after == "sft":
            why = "gate off" if gate.mode == "off" else "the gate applies after RL"
            if entry.get("verdict") == NOT_JUDGED:
                told, style = "so few cases say nothing about refinement", ""
            else:
                told, style = f"refinement does not pass the gate ({reasons})", "yellow"
            console.print(f"{why}: RL starts although {told}", style=style)
        return
    if after == "rl":
        raise RunError(f"the gate does not pass after RL: {reasons}. The report is complete: {run.path('report.html')}")
    build_report(run.folder)
    raise RunError(
        f"the gate does not pass, so RL is not started: {reasons}. Train SFT longer, or do RL anyway with "
        f"`irg-rl fork {run.folder} gate.mode=off`, or set gate.after=rl to apply the gate after RL"
    )


STAGES = (
    RunStage("world", lambda recipe: True, lambda run, tracker, facts: make_world(run), ("world",)),
    RunStage("vae", lambda recipe: True, lambda run, tracker, facts: make_base(run, facts), ("models/base",), "base"),
    RunStage(
        "scorers", lambda recipe: True, lambda run, tracker, facts: make_scorers(run, facts),
        ("scorers", "evaluation/scorers.json"),
    ),
    _sft("base"),
    _sft("stage1"),
    RunStage("own_images", _makes_own_rows, _make_own_rows),
    _sft("stage2"),
    RunStage(
        "evaluate_sft", lambda recipe: recipe.sft is not None,
        lambda run, tracker, facts: evaluate(run, start_of(run.recipe, "evaluate_sft"), tracker, facts),
        tuple(place for model in SFT_MODELS.values()
              for place in (f"evaluation/{model}.*", f"samples/{model}", f"samples/{model}.parquet")),
    ),
    RunStage(
        "rl", lambda recipe: recipe.rl is not None, _learn, model="rl", check=lambda run: check_gate_holds(run, "sft"),
    ),
    RunStage(
        "evaluate_rl", lambda recipe: recipe.rl is not None,
        lambda run, tracker, facts: evaluate(run, "rl", tracker, facts),
    ),
    RunStage("report", lambda recipe: True, _report, again=True),
)  # fmt: skip
"""All stages of a run, in order."""

BASELINE = (
    RunStage(
        CONTINUED, lambda recipe: recipe.sft is not None, continue_sft, model=CONTINUED,
        check=require_finished,
    ),
    RunStage(
        f"evaluate_{CONTINUED}", lambda recipe: recipe.sft is not None,
        lambda run, tracker, facts: evaluate(run, CONTINUED, tracker, facts),
    ),
)  # fmt: skip
"""The two stages that `irg-rl baseline` adds to a finished run."""

NAMES = tuple(stage.name for stage in (*STAGES, *BASELINE))
"""Names of all stages, also of those of `irg-rl baseline`. `budget_minutes` in a recipe may have these names as
keys."""
BEFORE_RL = STAGES[: [stage.name for stage in STAGES].index("rl")]
"""The stages before RL. A fork of a run takes over their results."""


def start_of(recipe: Recipe, name: str) -> str:
    """Return the name of the model folder from which the stage `name` starts. It is the last model folder that the
    earlier stages of this recipe make."""
    before = STAGES[: [stage.name for stage in STAGES].index(name)]
    return [stage.model for stage in before if stage.model is not None and stage.needed(recipe)][-1]


def work(run: Run) -> None:
    """Run all stages of the run that are not done, and print the time of each stage. Raises RunError if the gate stops
    the run."""
    recipe = run.recipe
    console.print(f"run {run.folder}: recipe {recipe.name}, digest {recipe.digest()}")
    torch.manual_seed(recipe.seed)
    faults.arm(run.folder, [fault.model_dump() for fault in recipe.faults])
    with run.lock(), ending_in_order(run), tracker_of(run) as tracker:
        for stage in STAGES:
            if stage.needed(recipe):
                do(run, stage, tracker)
    show_budgets(run)
    if recipe.rl is not None:
        check_gate_holds(run, "rl")


@contextmanager
def ending_in_order(run: Run) -> Iterator[None]:
    """Give a context (for `with`) in which a signal, such as Ctrl-C, ends the run in an orderly way: it can be resumed
    from a checkpoint (see irg_rl/stopping.py). A scheduler may send the signal to all processes of the run. So some
    actors (processes) may already have ended. This does not count as a failure."""
    with stopping.on_signals(run.folder, run.recipe.engine.stop_grace_s):
        try:
            yield
        except Exception as error:
            if not (stopping.asked() and is_expected(error)):
                raise
            console.print(f"after the signal: {explain(error)}", soft_wrap=True, markup=False)
            raise KeyboardInterrupt from error


def do(run: Run, stage: RunStage, tracker: Tracker) -> None:
    """Run one stage, unless it is done. The stage `report` runs every time. Raises RunError if the run must stop before
    this stage."""
    stage.check(run)
    if run.is_done(stage.name) and not stage.again:
        return
    console.print(stage.name + _time_left(run, stage), style="bold")
    with run.stage(stage.name) as facts:
        faults.at("stage", of=stage.name)
        stage.run(run, tracker, facts)
        faults.at("stage_done", of=stage.name)


def unfinished(run: Run) -> list[str]:
    """Return the names of the stages that this run still has to do, in order."""
    return [stage.name for stage in STAGES if stage.needed(run.recipe) and not run.is_done(stage.name)]


def minutes_left(run: Run) -> float | None:
    """Return an estimate of how many minutes the unfinished stages of a run will take. It is the sum of their budgets
    in the recipe (`budget_minutes`), times a factor. The factor is the time that the finished stages took, divided by
    their budgets. (Budgets are for an idle machine.) The result is None if an unfinished stage has no budget."""
    budgets = run.recipe.budget_minutes
    todo = unfinished(run)
    if any(name not in budgets for name in todo):
        return None
    done = [name for name in budgets if run.is_done(name) and "from" not in run.stages[name]]
    expected = sum(budgets[name] for name in done)
    pace = sum(run.stages[name]["seconds"] for name in done) / 60 / expected if expected >= MEASURED_MINUTES else 1.0
    return pace * sum(budgets[name] for name in todo)


def _time_left(run: Run, stage: RunStage) -> str:
    """Return the time left of the whole run as words for the line that a stage begins with."""
    left = minutes_left(run) if stage in STAGES else None
    return "" if left is None or left < 0.5 else f" ({left:.0f} min left of the run)"


def tracker_of(run: Run) -> Tracker:
    recipe = run.recipe
    return Tracker(
        run.folder, name=run.folder.name, project=recipe.tracking.project,
        config={**recipe.model_dump(mode="json"), "digest": recipe.digest()}, use_wandb=recipe.tracking.wandb,
    )  # fmt: skip


def show_budgets(run: Run) -> None:
    total = 0.0
    for name, entry in run.stages.items():
        total += entry["seconds"]
        budget = entry.get("budget_minutes")
        asked = f" of {budget:g} min" if budget else ""
        origin = f", from {entry['from']}" if "from" in entry else ""
        console.print(f"  {name:13} {entry['seconds'] / 60:6.1f} min{asked}{origin}")
    console.print(f"  {'all':13} {total / 60:6.1f} min; report: {run.path('report.html')}")
