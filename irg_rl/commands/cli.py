"""`irg-rl`: the commands of the program, one for each task of a researcher."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from irg_rl import stopping
from irg_rl.commands.reward_cli import reward_app
from irg_rl.driver.progress import console
from irg_rl.errors import InputError, explain, is_expected
from irg_rl.presets import PRESET, PRESETS
from irg_rl.studies import NAMES
from irg_rl.suites import NAMES as SUITES
from irg_rl.text_in import require_text
from irg_rl.text_out import Terminal, shown

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="SFT and RL for models that think, draw, look at what they drew, and draw again. "
    "Begin with: irg-rl train shapes-smoke",
)

STOPPED_BY_HAND = 130
"""Exit code of a command that Ctrl-C ended."""


def find_run(given: Path) -> Path:
    """Return the folder of the run `given`. This is a folder, or the name of a run in ./runs."""
    named = Path("runs", given)
    return named if len(given.parts) == 1 and not given.exists() and named.exists() else given


Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="settings that replace the recipe's, as key=value: output_dir=/data turns is sampling.turns=4"),
]
RecipeName = Annotated[
    str, typer.Argument(help="a recipe file, or the name of a shipped recipe, as `irg-rl ls` lists it")
]
Preset = Annotated[
    str | None, typer.Option(help=f"how BAGEL or IRG sample: {', '.join(PRESETS)}; default: the recipe's settings")
]
RunFolder = Annotated[
    Path, typer.Argument(help="a run folder, as `train` printed it, or the name of a run in ./runs", callback=find_run)
]

RestartStage = Annotated[
    bool, typer.Option("--restart-stage", help="if all checkpoints of a stage are damaged: train it from its beginning")
]


def main() -> None:
    """Run a command. An expected failure prints one line on stderr and exits with code 1. Ctrl-C exits with code 130. A
    run that a signal has ended, and that `resume` continues, exits with code 75."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded at run time
    try:
        for number, word in enumerate(sys.argv[1:], 1):
            require_text(word, f"word {number} of the command line")
        app()
    except SystemExit as end:
        if end.code != STOPPED_BY_HAND:
            raise
        ended = stopping.message()
        _complain(ended or explain(KeyboardInterrupt()))
        raise SystemExit(STOPPED_BY_HAND if ended is None else stopping.RESUMABLE) from end
    except BaseException as error:
        if not is_expected(error):
            raise
        _complain(explain(error))
        raise SystemExit(1) from error


def _complain(text: str) -> None:
    """Print the message unchanged, so that it can be searched for."""
    terminal = Terminal(stderr=True)
    terminal.print(Text.assemble(("error: ", "red"), shown(text, terminal.encoding)))


@app.command()
def ls() -> None:
    """List the shipped recipes, recipes in ./configs, and the runs in ./runs."""
    from irg_rl.commands.ls import show_lists

    show_lists()


@app.command()
def cp(
    name: Annotated[str, typer.Argument(help="a shipped recipe of a run or a data set, as `irg-rl ls` lists it")],
    file: Annotated[Path | None, typer.Argument(help="file to write; default: NAME.yaml in this folder")] = None,
) -> None:
    """Copy a shipped recipe to a file of your own, to edit."""
    from irg_rl.commands.cp import copy_recipe
    from irg_rl.config import recipe_settings
    from irg_rl.config.shipped import data_recipe_path, recipe_path

    source = next((path for path in (recipe_path(name), data_recipe_path(name)) if path.exists()), Path(name))
    written = copy_recipe(name, file)
    command = "train" if {"name", "model"} & recipe_settings(source).keys() else "data build"
    console.print(f"written: {written}; `irg-rl {command} {written}` runs it", soft_wrap=True, markup=False)


@app.command()
def check(
    recipe: RecipeName,
    overrides: Overrides = None,
    trial: Annotated[bool, typer.Option(help="try one of everything, if the recipe's model folder is here")] = True,
    elsewhere: Annotated[bool, typer.Option("--elsewhere", help="check the recipe alone, not this machine")] = False,
) -> None:
    """Validate a recipe and list every problem. For a wrong name, suggest a similar one. Then try rows, a pack, a
    rollout, a score, an evaluation and a save at a small size. No run is started.

    The exit status is 1 if a run cannot work on this machine. With --elsewhere, it depends on the recipe alone."""
    from irg_rl.commands.check import check_recipe

    lines, works = check_recipe(recipe, overrides or [], trial, elsewhere)
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
    if not works:
        raise typer.Exit(1)


@app.command()
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    gpu_gib: Annotated[float, typer.Option(min=0.001, help="memory of one card")] = 80.0,
    gpus: Annotated[int | None, typer.Option(min=1, help="print the command with which it fits this many")] = None,
    tflops: Annotated[float | None, typer.Option(min=1e-6, help="10^12 operations per second, as reached")] = None,
    gbps: Annotated[float | None, typer.Option(min=1e-6, help="10^9 bytes per second from the card's memory")] = None,
) -> None:
    """Estimate what a recipe costs: parameters, memory per GPU, forwards, weight sync and time. If it does not fit,
    name single settings that make it fit. Nothing is started.

    With --gpus, search for the mildest settings that make all processes fit this many GPUs, and print the command."""
    from irg_rl.commands.plan import plan_recipe

    for part in plan_recipe(recipe, overrides or [], gpu_gib, tflops, gbps, gpus):
        console.print(part)


@app.command()
def demo(
    rl: Annotated[bool, typer.Option("--rl", help="also do 20 RL updates, about two minutes more")] = False,
    out: Annotated[Path, typer.Option(help="folder in which the run is made")] = Path("runs"),
) -> None:
    """Look at trained models in a minute, on any CPU: draw, reflect and draw again, and build a page of pictures.

    Two small models come with the program: the SFT and the RL checkpoint of the recipe shapes-rl. Both draw for the
    same prompts, with both controls, and the report compares them. With --rl, RL starts here from the SFT checkpoint.
    It trains the first image in three denoising steps, so that its reward rises within minutes. What RL gains in
    refinement is seen with `irg-rl train shapes-rl`.
    """
    from irg_rl.driver.demo import demo as show_demo

    folder = show_demo(out, rl)
    console.print(f"open {folder.resolve() / 'report.html'}", soft_wrap=True, markup=False)


@app.command()
def train(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Run a recipe from nothing to the report: base, SFT, gate, RL, evaluation, report.

    The base stage trains a small model from scratch, if the recipe names no checkpoint to start from. The gate is a
    test that refinement improves images.
    """
    from irg_rl.commands import train

    train.train(recipe, overrides or [])


@app.command()
def resume(run: RunFolder, restart_stage: RestartStage = False) -> None:
    """Continue a run where it stopped. The result is the same bit for bit."""
    from irg_rl.commands import resume

    resume.resume(run, restart_stage)


@app.command()
def fork(run: RunFolder, overrides: Overrides = None) -> None:
    """Make a new run that does RL again from a run's SFT checkpoint, with another rl.seed or other settings of RL.

    The new run takes over the finished stages before RL. Settings that these stages depend on cannot change.
    """
    from irg_rl.commands import fork

    fork.fork_run(run, overrides or [])


@app.command()
def baseline(run: RunFolder, restart_stage: RestartStage = False) -> None:
    """Continue the SFT of a finished run for as long as its RL took, evaluate it and compare. Can be interrupted."""
    from irg_rl.commands.baseline import continue_sft

    continue_sft(run, restart_stage)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="one run, several seeds of one experiment, or any runs")],
    out: Annotated[Path | None, typer.Option(help="folder to write to; default: evaluation/ of the first run")] = None,
    split: Annotated[
        str | None, typer.Option(help="compare the results of `irg-rl eval --split`; default: those of the runs")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RUN", help="one more baseline: a run or a model folder in one; may be repeated"),
    ] = None,
) -> None:
    """Compare RL with its baselines, for each seed and for all seeds pooled. Or compare any runs side by side.

    Runs that differ in rl.seed alone are pooled. Other runs, evaluated on the same prompts, are shown side by side:
    paired differences from the first run, the settings that differ, and a figure with the curves of all runs.

    The first baseline is the SFT checkpoint that all runs share. The second is the continued SFT of `irg-rl baseline`,
    if it was made. Others are the best of several first images, and the runs given by --against. The best image is
    chosen from 2 images, and from as many images as RL draws per prompt.
    """
    from irg_rl.driver.compare import compare_runs, differ_in_seed_alone, named_runs
    from irg_rl.driver.side_by_side import show_side_by_side

    if len(runs) == 1 or against or differ_in_seed_alone(runs):
        written = compare_runs(runs, out, split, named_runs(against or []))
    else:
        written = show_side_by_side(runs, out, split)
    console.print(f"written: {written}", soft_wrap=True, markup=False)


@app.command("eval")
def evaluate(
    target: Annotated[Path, typer.Argument(help="a run folder or a checkpoint folder inside one")],
    split: Annotated[
        Literal["test", "validation", "hard"],
        typer.Option(help="validation: tune without touching the test prompts; hard: three to six constraints"),
    ] = "test",
    prompts: Annotated[
        str | None, typer.Option(metavar="NUMBER|FILE", help="number of held-out prompts, or a file of prompts")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="trajectories per prompt")] = 1,
    turns: Annotated[int | None, typer.Option(min=2, help="images per trajectory at most")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of the evaluation")] = None,
    preset: Preset = None,
    preference: Annotated[
        str | None, typer.Option(help="a judge of the recipe that compares refined images with first ones")
    ] = None,
    scorers: Annotated[bool, typer.Option("--scorers", help="also score the images as the run's stages do")] = False,
    controls: Annotated[bool, typer.Option(help="redraw and another prompt's reflection; the gate needs both")] = True,
    out: Annotated[Path | None, typer.Option(help="folder to write to; default: evaluation/ of the run")] = None,
) -> None:
    """Evaluate refined images on held-out prompts, with both controls for comparison.

    Both controls start from the same first images as the refinement. One control draws each image again without
    refinement. The other refines it with a reflection that was written for another prompt.

    --prompts FILE evaluates prompts of your own: one JSON object per line with `prompt`, and what the task needs to
    judge images in `metadata`.
    """
    from irg_rl.commands.eval import evaluate_target

    changes = {"turns": turns, "seed": seed}
    evaluate_target(
        target, changes, prompts, preset=preset, preference=preference, split=split, samples=samples, scored=scorers,
        controls=controls, out=out,
    )  # fmt: skip


@app.command()
def generate(
    checkpoint: Annotated[Path, typer.Argument(help="a model folder in the released layout, or a run")],
    out: Annotated[Path, typer.Option(help="folder for images, texts and settings")],
    prompt: Annotated[list[str] | None, typer.Option(help="what to draw; may be given several times")] = None,
    suite: Annotated[
        str | None, typer.Option(help=f"a benchmark's images in its layout: {', '.join(SUITES)}, or module:Class")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="the benchmark's own prompts, a file or a folder")] = None,
    sources: Annotated[Path | None, typer.Option(help="folder of source images, for suites of edits")] = None,
    model_name: Annotated[str | None, typer.Option(help="folder of the model in the layout; default: --out's")] = None,
    shard: Annotated[str, typer.Option(help="K/N: every N-th file from the K-th on; N calls fill one --out")] = "0/1",
    turns: Annotated[int, typer.Option(min=1, help="images per prompt at most")] = 2,
    stop: Annotated[bool, typer.Option(help="a reflection that says to change nothing ends a trajectory")] = True,
    seed: Annotated[int, typer.Option(help="seed of the noise")] = 0,
    preset: Preset = None,
    text_scale: Annotated[float | None, typer.Option(help="guidance by the text")] = None,
    image_scale: Annotated[float | None, typer.Option(help="guidance of refinements by the images")] = None,
    points: Annotated[int | None, typer.Option(help="time points of the flow, one more than steps")] = None,
    shift: Annotated[float | None, typer.Option(help="shift of the time points")] = None,
    temperature: Annotated[float | None, typer.Option(help="temperature of the texts; 0 is greedy")] = None,
    max_text_tokens: Annotated[int | None, typer.Option(help="longest text")] = None,
    size: Annotated[tuple[int, int] | None, typer.Option(help="height and width of the images in pixels")] = None,
    history: Annotated[str | None, typer.Option(help="what a refinement sees of earlier turns: last, full")] = None,
    system_prompt: Annotated[str | None, typer.Option(help="the text before every prompt, as in training")] = None,
) -> None:
    """Think, draw, look, redraw: write the text and image of every turn, and a JSON file with all settings.

    The settings come from the run that contains the checkpoint. A checkpoint outside of a run is sampled with the
    preset irg. The options of this command replace these settings: first --preset, then the single options. With
    --suite and --prompts, the command draws the images of a benchmark. It writes one folder per turn, in the layout
    that the benchmark's evaluator reads. A second call draws what is missing.
    """
    from irg_rl.commands.generate import generate_to
    from irg_rl.commands.suite_images import generate_suite

    settings = {
        PRESET: preset,
        "evaluation.guidance.text_scale": text_scale,
        "evaluation.guidance.image_scale": image_scale,
        "evaluation.points": points,
        "evaluation.shift": shift,
        "evaluation.temperature": temperature,
        "sampling.max_text_tokens": max_text_tokens,
        "sampling.image_size": size,
        "sampling.history": history,
        "sampling.system_prompt": system_prompt,
    }
    changes = {name: value for name, value in settings.items() if value is not None}
    if (suite is None) == (not prompt) or (suite is None) != (prompts is None):
        raise InputError("give either --prompt TEXT, or --suite NAME with --prompts FILE")
    if suite is None:
        generate_to(checkpoint, prompt or [], turns, seed, changes, out, stop)
        return
    assert prompts is not None
    generate_suite(
        checkpoint, suite, prompts, turns, seed, changes, out, stop,
        model_name=model_name or out.resolve().name, sources=sources, shard=shard,
    )  # fmt: skip


@app.command()
def rollout(
    checkpoint: Annotated[Path, typer.Argument(help="a model folder, or a run (its last model is used)")],
    out: Annotated[Path, typer.Option(help="folder for the groups; an unfinished one is completed")],
    overrides: Overrides = None,
    groups: Annotated[int, typer.Option(min=1, help="prompts, each with rl.group_size trajectories")] = 64,
) -> None:
    """Sample and score groups in the same way as RL, and save them in a folder.

    Offline DPO can learn from this folder: set rl.rollouts to its path.
    """
    from irg_rl.commands.rollout import roll_out

    roll_out(checkpoint, out, groups, overrides or [])


@app.command()
def parity(
    checkpoint: Annotated[Path, typer.Argument(help="a model folder in the released layout, or a run")],
    prompts: Annotated[int, typer.Option(min=1, help="trajectories per case, one per prompt")] = 16,
    turns: Annotated[int | None, typer.Option(min=1, help="images at most; default: the recipe's")] = None,
    seed: Annotated[int, typer.Option(help="seed of prompts and noise")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON to write; default: evaluation/ of the run")] = None,
) -> None:
    """Measure the difference between replayed and sampled log-probabilities, per turn, modality and denoising step.

    This is measured for 1 to n turns, for batches of 1 and 16, for whole and split packs, and without and with
    adapters. A pack is the input of one forward pass. A whole pack has whole trajectories, and a split pack has parts
    of them.
    """
    from irg_rl.commands.parity import measure_parity

    measure_parity(checkpoint, prompts, turns, seed, out)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="a model folder in the released layout, or a run")],
    out: Annotated[
        Path | None, typer.Option(help="folder to write; default: export/ of the run, or NAME-export in this folder")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="published name of the base, as ByteDance-Seed/BAGEL-7B-MoT; default: its folder")
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="licence of the weights; default: that of the base model's card")
    ] = None,
) -> None:
    """Write a checkpoint for publication: bf16 shards with an index, settings files, a model card with results, and the
    adapters by peft's conventions. `irg-rl generate` reads the folder."""
    from irg_rl.commands.export import export as export_checkpoint

    export_checkpoint(checkpoint, out, base_model, license)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="a model folder in the released layout")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="folder for verify.html and verify.json")] = Path("verify"),
    against: Annotated[
        Path | None, typer.Option(help="verify.json of a folder that is right: pins weights, tokenizer and numbers")
    ] = None,
) -> None:
    """Check a model folder on this machine: weights, tokenizer, two-turn generation, parity, an SFT step, an RL update,
    scores, saving, memory and time.

    Writes one page and one JSON file without paths and secrets. Every check says passed, failed, or not possible here.
    A failed check does not stop the others; the exit code is then 1.
    """
    from irg_rl.commands.verify import verify_folder

    verify_folder(folder, out, overrides or [], against)


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="a run, or a folder of `irg-rl rollout`", callback=find_run)],
    step: Annotated[
        int | None, typer.Option(min=1, help="RL update of a run, from 1; it must have been dumped (rl.dump_every)")
    ] = None,
    group: Annotated[int | None, typer.Option(min=0, help="its number, from 0; default: list all groups")] = None,
) -> None:
    """Show a group that RL trained on: every text, score and advantage, and the images as a picture strip.

    A group is several samples of one prompt. Without --step, a run lists which updates were dumped.
    """
    from irg_rl.commands.show import show_group

    show_group(run, step, group)


@app.command()
def view(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN|FOLDER]...", help="runs, folders of runs, or folders of groups; default: ./runs"
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port on 127.0.0.1; 0: any free port")] = 0,
    browser: Annotated[bool, typer.Option("--open", help="also open the page in this machine's browser")] = False,
) -> None:
    """Look at runs in the browser, also while they train: curves side by side, the health of RL, samples, groups.

    Prints the address of a local page. The page is made from the files of the runs alone, and follows them as they
    grow. It shows every evaluated trajectory with its images, reflections, scores and controls, and groups of RL with
    their advantages. The arrow keys go to the neighbours. Only this machine can open the page, and only with the whole
    address. From another machine, use a tunnel: ssh -L 8765:127.0.0.1:8765 HOST, and --port 8765 there.
    """
    from irg_rl.commands.view import view as view_runs

    view_runs([find_run(folder) for folder in folders or []], port, browser)


@app.command()
def replay(
    run: RunFolder, step: Annotated[int, typer.Option(min=1, help="RL update, from 1; it must have been dumped")]
) -> None:
    """Repeat one RL update from its dumped groups, without Ray, rollouts or scorers, and compare it with the run's log.

    On the CPU the result is equal bit for bit to the result of the run. Use this command to debug a loss.
    """
    from irg_rl.commands.replay import replay_step

    replay_step(run, step)


@app.command()
def study(
    name: Annotated[str, typer.Argument(help=f"name of the study: {', '.join(NAMES)}")],
    words: Annotated[list[str], typer.Argument(metavar="RUN|CHECKPOINT... [key=value]...")],
    out: Annotated[Path | None, typer.Option(help="folder to write to; default: studies/NAME of the first run")] = None,
) -> None:
    """Answer one question with a grid of measurements: writes results as parquet, figures, and a page. A second call
    measures only what is missing.

    Studies that only test (turns, influence, credit, guidance, recovery, teacher) take one or more runs (their newest
    model) or checkpoints. Studies that train (schemes, modality, modes) take one run. For every measurement they make a
    fork of it: a new run that starts RL from the SFT checkpoint of this run, with other settings. Settings of the study
    are written study.key=value. All others are settings of the recipe, such as evaluation.prompts=64. A checkpoint
    outside of a run needs study.prompts=FILE and rewards.scorers=[...].
    """
    from irg_rl.commands.study import run_study

    run_study(name, words, out)


suite_app = typer.Typer(no_args_is_help=True, help="Official benchmarks: read their result files, or judge here.")
app.add_typer(suite_app, name="suite")
app.add_typer(reward_app, name="reward")

SuiteName = Annotated[str, typer.Argument(help=f"{', '.join(SUITES)}, or module:Class")]
SuitePrompts = Annotated[
    Path | None, typer.Option(help="prompts of the suite; default: the prompts of the folder")
]


@suite_app.command("ls")
def suite_ls() -> None:
    """List the suites (benchmarks) that irg-rl knows."""
    from irg_rl.commands.suite import list_suites

    list_suites()


@suite_app.command("read")
def suite_read(
    name: SuiteName,
    folders: Annotated[list[Path], typer.Argument(help="folders of `generate --suite`, or single trees")],
    prompts: SuitePrompts = None,
    out: Annotated[Path | None, typer.Option(help="folder for table and JSON; default: the first folder")] = None,
) -> None:
    """Print the scores in official result files as one table, with 95 % intervals over prompts. The table also shows
    missing scores, and paired differences between turns and folders. It states the protocol: who scores the images, and
    how the scores are averaged."""
    from irg_rl.commands.suite import read_suite

    read_suite(name, folders, prompts, out)


@suite_app.command("judge")
def suite_judge(
    name: SuiteName,
    folder: Annotated[Path, typer.Argument(help="a folder of `generate --suite`, or one of its trees")],
    judge: Annotated[str, typer.Option(help="address of an OpenAI-compatible server, as http://host:8000/v1")],
    model: Annotated[str, typer.Option(help="name of the judge's model")] = "judge",
    api_key_env: Annotated[str, typer.Option(help="environment variable that holds the key")] = "",
    template: Annotated[Path | None, typer.Option(help="file with the official question")] = None,
    prompts: SuitePrompts = None,
    concurrency: Annotated[int, typer.Option(min=1, help="number of questions at the same time")] = 8,
    extra_body: Annotated[
        str, typer.Option(help="further fields of every request, as JSON (chat_template_kwargs)")
    ] = "{}",
) -> None:
    """Ask a judge (a vision-language model on a server) the questions of the suite about the images in a folder. A
    second call asks only the questions that failed or are missing."""
    from irg_rl.commands.suite import judge_suite

    judge_suite(name, folder, judge, model, api_key_env, template, prompts, concurrency, extra_body)


data_app = typer.Typer(no_args_is_help=True, help="SFT data in the IRG schema: build it, check it, look at it.")
app.add_typer(data_app, name="data")

DataFolder = Annotated[Path, typer.Argument(help="a folder that holds one folder of parquet files per mode")]


@data_app.command("build")
def data_build(
    recipe: Annotated[str, typer.Argument(help="a data recipe, or the name of a shipped one, as `irg-rl ls` lists it")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings that replace the recipe's, as key=value: out=/data/IRGL")
    ] = None,
) -> None:
    """Build rows of the six learning modes: a teacher writes thinking and reflections, somebody draws improved images,
    and a judge decides what is kept. The same command continues what was interrupted."""
    from irg_rl.commands.data import build_data

    build_data(recipe, overrides or [])


@data_app.command("check")
def data_check(folder: DataFolder) -> None:
    """Read every row as SFT does, and name the rows that cannot be trained on or do not look like their mode."""
    from irg_rl.commands.data import check_data

    check_data(folder)


@data_app.command("stats")
def data_stats(folder: DataFolder) -> None:
    """Print numbers of rows, lengths of texts and sizes of images of every mode, and what is known of their origin."""
    from irg_rl.commands.data import show_stats

    show_stats(folder)


@app.command()
def report(run: RunFolder) -> None:
    """Build report.html of a run again from its files."""
    from irg_rl.commands.report import build

    console.print(f"report: {build(run)}")
