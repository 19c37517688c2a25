"""The stages of a run in order. A stage that is done is skipped, one that was stopped goes on from its checkpoint."""


import torch

from irg_rl.driver.alarm import tell_learning
from irg_rl.driver.compare import compare_runs
from irg_rl.driver.evaluator import Measured, gate_of, measure_stage
from irg_rl.driver.offline_loop import learn_offline
from irg_rl.driver.prepare import make_base, make_scorers, make_world
from irg_rl.driver.progress import console
from irg_rl.driver.rl_loop import reinforce
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.driver.sft import draw_own_images, train_stage
from irg_rl.report.build import build_report
from irg_rl.report.tracking import Tracker


def work(run: Run) -> None:
    """All stages that are not done, then the report."""
    recipe = run.recipe
    console.print(f"run {run.folder}: recipe {recipe.name}, digest {recipe.digest()}")
    torch.manual_seed(recipe.seed)
    with run.lock(), tracker_of(run) as tracker:
        step(run, "world", lambda facts: make_world(run))
        step(run, "vae", lambda facts: make_base(run, facts))
        step(run, "scorers", lambda facts: make_scorers(run, facts))
        last = "base"
        if recipe.sft is not None:
            base, first, second = recipe.sft.base, recipe.sft.stage1, recipe.sft.stage2
            if base is not None:
                step(run, "pretrain", lambda facts: train_stage(run, "pretrain", "base", base, tracker, facts))
                last = "pretrain"
            if first is not None:
                step(run, "sft1", lambda facts: train_stage(run, "sft1", last, first, tracker, facts))
                last = "sft1"
            if first is not None and second is not None and recipe.world.own_images and recipe.sft.data is None:
                step(run, "own_images", lambda facts: draw_own_images(run, "sft1", facts))
            if second is not None:
                step(run, "sft2", lambda facts: train_stage(run, "sft2", last, second, tracker, facts))
                last = "sft2"
            step(run, "evaluate_sft", lambda facts: evaluate(run, last, tracker, facts))
        if recipe.rl is not None:
            check_gate_holds(run, "sft")
            learn = reinforce if recipe.rl.rollouts is None else learn_offline
            step(run, "rl", lambda facts: learn(run, last, tracker, facts))
            tell_learning(run)
            step(run, "evaluate_rl", lambda facts: evaluate(run, "rl", tracker, facts))
            if recipe.sft is not None:
                compare_runs([run.folder])
        step(run, "report", lambda facts: facts.update(path=str(build_report(run.folder))), again=True)
    show_budgets(run)
    if recipe.rl is not None:
        check_gate_holds(run, "rl")


def step(run: Run, name: str, body, again: bool = False) -> None:
    if run.is_done(name) and not again:
        return
    console.print(name, style="bold")
    with run.stage(name) as facts:
        body(facts)


def evaluate(run: Run, name: str, tracker: Tracker, facts: dict) -> None:
    measured: Measured = measure_stage(run, name, facts)
    evaluation = measured.evaluation
    gate = gate_of(run, evaluation)
    evaluation = type(evaluation)(evaluation.name, evaluation.arms, gate=gate, settings=evaluation.settings)
    evaluation.save(run.path("evaluation", "x").parent)
    console.print(gate)
    for arm, table in evaluation.arms.items():
        console.print(f"{arm}: accuracy per turn {', '.join(f'{a:.3f}' for a in table.correct.mean(0))}")
    facts.update(gate=gate.passed, failures=gate.failures)
    tracker.log_samples(name, 0, measured.samples(run.recipe.evaluation.strips))


def check_gate_holds(run: Run, after: str) -> None:
    """Raises RunError where the evaluation after this stage, `sft` or `rl`, is the one that the recipe asks and
    refinement is not shown in it: RL is not started, or a whole run has not come to what its recipe asks."""
    gate, entry = run.recipe.gate, run.stages.get(f"evaluate_{after}")
    if entry is None or entry.get("gate", False):
        return
    reasons = "; ".join(entry["failures"])
    if gate.mode == "off" or gate.after != after:
        if after == "sft":
            why = "gate off" if gate.mode == "off" else "the gate is asked after RL"
            console.print(f"{why}: RL starts although refinement is not shown ({reasons})", style="yellow")
        return
    if after == "rl":
        raise RunError(f"the gate does not hold after RL: {reasons}. The report is whole: {run.path('report.html')}")
    build_report(run.folder)
    raise RunError(
        f"the gate does not hold, RL is not started: {reasons}. Train SFT longer, or do RL all the same: "
        f"`irg-rl fork {run.folder} gate.mode=off`, or gate.after=rl to ask for it after RL"
    )


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
