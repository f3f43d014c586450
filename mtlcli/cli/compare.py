"""The verb `mtl compare`: train the baseline and the candidates that are missing, on the same data
with the same budget and seeds, then compare all of them."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mtlcli import commands
from mtlcli.cli.eval import overrides_among, run_path_problems
from mtlcli.cli.parser import Parser
from mtlcli.cli.report import baseline_and_others, page_problems, read_runs, show
from mtlcli.cli.typed import config_dir_problems
from mtlcli.config import Config
from mtlcli.config.changes import changes, filled, judge
from mtlcli.config.paths import typed_path
from mtlcli.config.snapshot import load_config
from mtlcli.errors import Interrupted, Problem, UserError, count_of
from mtlcli.report.comparison import compare, runs_in
from mtlcli.report.finished import Finished, read_run
from mtlcli.rundir import checkpoint
from mtlcli.rundir.folder import RunFolder

HELP = """\
Train a single-task baseline and the candidates, as far as runs are missing, and compare them: which
tasks gain, which lose, by how much, how sure.

usage: mtl compare [RUN...] [KEY=VALUE ...] [--baseline RUN...] [--seeds N] [--equal data|compute]
                   [--to FILE.html] [-cd DIR]

  mtl compare task=glue_multi sharing=hard
  mtl compare task=sample data=sample model=tiny sharing=hard,lora --seeds 3
  mtl compare task=glue_multi sharing=hard weighting=static,pcgrad sampling=all --equal compute
  mtl compare runs/merged task=glue_multi sharing=hard          # a finished run is a candidate, too
  mtl compare runs/merged task=glue_multi                       # only the baseline is trained

  KEY=VALUE          as for mtl train; of a key with several values, each makes a candidate
  RUN...             finished runs that are candidates as they are
  --baseline RUN...  finished runs to compare with, in place of training sharing=none
  --seeds N          train each method with the seeds 0 to N - 1 (default 3)
  --equal data       every run makes the same number of steps on the same batches (the default)
  --equal compute    candidates make as many steps as cost the baseline's floating-point operations
  --to FILE.html     the page (default: report.html in the folder of the comparison)
  -cd DIR            your own configuration and methods, as for mtl train

The runs lie in compare/NAME of the tasks, or in run_dir=DIR. The same command again reuses what has
finished and goes on with what was interrupted; more candidates or seeds add runs to those there.
"""
SINGLE = ["sharing=none", "weighting=static"]
"""What makes a baseline of a candidate: a copy of the encoder for each task. With separate
parameters, a weight only scales the gradient of its own task."""
OF_METHODS = ("sharing", "weighting", "logger.probe", "logger.affinity")
"""Keys and sections that are the candidates' alone: a baseline shares nothing that a weighting
could balance or a probe could measure."""


@dataclass
class Planned:
    """A run of a comparison."""

    label: str
    seed: int
    folder: Path
    overrides: list[str]
    """The overrides of the run, without its folder."""
    config: Config | None = None
    """What the overrides compose; None until they are checked."""
    baseline: bool = False
    state: str = "trains"
    """`trains`, `goes on` or `has finished`."""


def compare_main(argv: list[str]) -> int:
    """Run `mtl compare` and return the exit code."""
    arguments = _read(argv)
    if arguments.help:
        print(HELP, end="")
        return 0
    overrides = overrides_among(arguments.rest)
    paths = runs_in(typed_path(word, "RUN") for word in arguments.rest if word not in overrides)
    baselines = runs_in(typed_path(word, "--baseline") for word in arguments.baseline)
    _check(arguments, paths, baselines, overrides)
    own = [] if arguments.config_dir is None else ["-cd", str(arguments.config_dir)]
    folder, planned = _plan(
        overrides,
        3 if arguments.seeds is None else arguments.seeds,
        own,
        train_baseline=not baselines,
        candidates_given=bool(paths),
    )
    page = arguments.to or folder / "report.html"
    if problems := page_problems(page):
        raise UserError(problems)
    again = _again(argv)
    # Runs that are given are read before anything is trained.
    baseline = read_runs(baselines, arguments.config_dir)
    others = read_runs(paths, arguments.config_dir)
    if arguments.equal == "compute":
        planned = _equal_compute(planned, folder, baseline, own, again)
    _announce(planned, folder)
    _train(planned, own, again)
    trained = read_runs([run.folder for run in planned], arguments.config_dir)
    if not baseline:
        seeds = sum(run.baseline for run in planned)
        baseline, trained = trained[:seeds], trained[seeds:]
    show(compare(*baseline_and_others([*trained, *others], baseline)), page)
    return 0


def _read(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="mtl compare", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=partial(typed_path, where="-cd"))
    parser.add_argument("--baseline", nargs="+", action="extend", default=[])
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--equal", choices=("data", "compute"), default="data")
    parser.add_argument("--to", type=partial(typed_path, where="--to"))
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    # A word with `=` behind --baseline is a setting.
    settings = overrides_among(arguments.baseline)
    arguments.rest += settings
    arguments.baseline = [word for word in arguments.baseline if word not in settings]
    return arguments


def _check(
    arguments: argparse.Namespace,
    paths: Sequence[Path],
    baselines: Sequence[Path],
    overrides: Sequence[str],
) -> None:
    """Raise UserError for every mistake that can be found before anything is composed."""
    own = arguments.config_dir
    problems = [] if own is None else config_dir_problems(own)
    for path in (*paths, *baselines):
        problems += run_path_problems(path)
    keys = [text.partition("=")[0].lstrip("+~") for text in overrides]
    if "seed" in keys:
        problems.append(
            Problem("every method is trained with several seeds", "seed", "type --seeds N")
        )
    if "resume" in keys:
        problems.append(
            Problem(
                "a comparison goes on by itself", "resume", "take it out, and type the same command"
            )
        )
    if arguments.seeds is not None and not 1 <= arguments.seeds <= 100:
        problems.append(Problem("must be from 1 to 100", "--seeds", "3 to 5 are common"))
    if not overrides and not paths:
        problems.append(
            Problem(
                "nothing is given to compare",
                fix="type settings as for mtl train, such as task=glue_multi sharing=hard",
            )
        )
    if problems:
        raise UserError(problems)


def _again(argv: Sequence[str]) -> str:
    return shlex.join(["mtl", "compare", *argv])


# ------------------------------------------------------------------------------------------------
# the plan


def _plan(
    overrides: list[str],
    seeds: int,
    own: list[str],
    *,
    train_baseline: bool,
    candidates_given: bool,
) -> tuple[Path, list[Planned]]:
    """Return the folder of the comparison and its runs, the baseline's first, all checked. Raises
    UserError for every mistake; nothing is started then.

    `candidates_given`: there are finished runs to compare, so that settings that name no method are
    those of the baseline alone.
    """
    if not any(not _is(text, ("run_dir",)) for text in overrides):
        return Path("compare"), []
    place = next((text.partition("=")[2] for text in overrides if _is(text, ("run_dir",))), None)
    kept = [text for text in overrides if not _is(text, ("run_dir",))]
    axes = [_values(text) for text in kept]
    candidates = [list(each) for each in itertools.product(*axes)]
    swept = [number for number, values in enumerate(axes) if len(values) > 1]
    named: list[tuple[str, list[str]]] = []
    if train_baseline:
        first = [values[0] for values in axes]
        single = [text for text in first if not _is(text, OF_METHODS)]
        named.append(("none", [*single, *SINGLE]))
        for number in swept:
            if not _is(axes[number][0], OF_METHODS):
                print(f"note: the baseline is trained with {axes[number][0]}", file=sys.stderr)
    if candidates_given and not swept and not any(_is(text, OF_METHODS) for text in kept):
        candidates = []
    for each in candidates:
        parts = [text.partition("=") for text in each]
        short = [
            value if key == "sharing" else f"{key}-{value}"
            for number, (key, _, value) in enumerate(parts)
            if number in swept or key == "sharing"
        ]
        named.append(("_".join(short) or "candidate", each))
    planned, problems = [], []
    folder: Path | None = None if place is None else typed_path(place, "run_dir")
    for number, (label, texts) in enumerate(named):
        for seed in range(seeds):
            single = train_baseline and number == 0
            run = Planned(label, seed, Path(), [*texts, f"seed={seed}"], baseline=single)
            if seed == 0:
                try:
                    run.config, suite = _composed(run.overrides, own)
                except UserError as error:
                    problems += error.problems
                    break
                folder = folder or Path("compare") / suite
            else:
                run.config = replace(planned[-1].config, seed=seed)
            planned.append(run)
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    assert folder is not None
    for run in planned:
        run.folder = folder / _name(run)
    problems = [problem for run in planned for problem in _state(run)]
    if seeds > 1 and any(run.config.data.max_eval_rows is not None for run in planned):
        problems.append(
            Problem(
                "every seed would be scored on other rows, since they are drawn by the seed",
                "data.max_eval_rows",
                "type data.max_eval_rows=null, or --seeds 1",
            )
        )
    if problems:
        raise UserError(problems)
    return folder, planned


def _is(text: str, keys: Sequence[str]) -> bool:
    """Return whether an override is of one of the keys, or of a key below one."""
    key = text.lstrip("+~").partition("=")[0]
    return any(key == each or key.startswith(f"{each}.") for each in keys)


def _values(text: str) -> list[str]:
    """Return the overrides that an override with several values stands for."""
    from hydra.core.override_parser.types import ChoiceSweep

    from mtlcli.cli.overrides import parsed

    try:
        override = parsed(text)
    except Exception:  # noqa: BLE001 (the check of the command line says what cannot be read)
        return [text]
    if not override.is_sweep_override():
        return [text]
    if not isinstance(override.value(), ChoiceSweep):
        raise UserError(
            "only lists of values make candidates",
            text,
            "write them out: KEY=A,B",
        )
    key = text.partition("=")[0]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _composed(overrides: list[str], own: list[str]) -> tuple[Config, str]:
    """Return the config that overrides compose, and a name for its tasks."""
    from mtlcli.cli.arguments import read_arguments
    from mtlcli.cli.preflight import preflight
    from mtlcli.cli.train import suite_of

    plan = preflight(read_arguments([*own, *overrides]))
    assert plan.composed is not None
    config = plan.configs[0]
    return config, suite_of(config, plan.composed.hydra.runtime.choices.get("task"))


def _name(run: Planned) -> str:
    """Return the name of a run's folder: its label, its seed, and a digest of its settings, so that
    a folder is found again by the same settings alone."""
    digest = hashlib.sha256("\n".join(sorted(run.overrides)).encode()).hexdigest()[:8]
    label = "".join(c if c.isalnum() or c in "_.-" else "-" for c in run.label)[:60]
    return f"{label}_seed-{run.seed}_{digest}"


def _state(run: Planned) -> list[Problem]:
    """Find out whether a run has finished or goes on. Return a problem where its folder holds a run
    with other settings."""
    place = RunFolder(run.folder)
    saved = run.folder / "config.yaml"
    status = place.status().get("status")
    if not saved.is_file() or not (status == "finished" or checkpoint.folders(place.checkpoints)):
        return []
    before = load_config(saved)
    assert run.config is not None
    refused, _ = judge(changes(before, filled(before, run.config)), [], dropout=False)
    if refused:
        what = "; ".join(str(each.change) for each in refused[:3])
        return [
            Problem(
                f"the run there was trained with other settings: {what}",
                str(run.folder),
                "move the folder away, or give another run_dir=",
            )
        ]
    run.state = "has finished" if status == "finished" else "goes on"
    return []


def _announce(planned: Sequence[Planned], folder: Path) -> None:
    """Print what will be trained, and what is there."""
    new = sum(run.state != "has finished" for run in planned)
    print(f"mtl compare: {count_of(len(planned), 'run')} in {folder}, {new} of them to train")
    for run in planned:
        print(f"  {run.label}, seed {run.seed}: {run.state} ({run.folder.name})")
    sys.stdout.flush()


# ------------------------------------------------------------------------------------------------
# training


def _train(planned: Sequence[Planned], own: list[str], again: str) -> None:
    """Train the runs that have not finished, one after another. Raises Interrupted, with the
    command to go on with, when a signal comes."""
    from mtlcli.cli.arguments import read_arguments
    from mtlcli.cli.preflight import preflight
    from mtlcli.cli.train import run_job

    waiting = [run for run in planned if run.state != "has finished"]
    for number, run in enumerate(waiting, start=1):
        print(f"\nrun {number} of {len(waiting)}: {run.label}, seed {run.seed}", flush=True)
        resumes = run.folder if run.state == "goes on" else None
        place = [f"run_dir={commands.hydra_value(run.folder)}", "resume=auto"]
        arguments = read_arguments([*own, *run.overrides, *(place if resumes is None else [])])
        command = ["mtl", "train", *own, *run.overrides]
        try:
            run_job(preflight(arguments, resumes).configs[0], run.folder, command, resumes=resumes)
        except Interrupted as error:
            error.problems = [
                replace(problem, fix=f"go on with: {again}") for problem in error.problems
            ]
            raise


def _equal_compute(
    planned: Sequence[Planned],
    folder: Path,
    baseline: Sequence[Finished],
    own: list[str],
    again: str,
) -> list[Planned]:
    """Return the plan with as many steps for each candidate as cost what the baseline's steps cost.

    A run of one step measures the floating-point operations of an example, which do not depend on
    how fast the machine is. All methods draw as many examples in a step, so steps times operations
    are made equal. `baseline`: the finished runs that are the baseline, if they are given.
    """
    measured = {
        run.label: replace(
            run,
            state="trains",
            folder=folder / "costs" / run.folder.name,
            overrides=[
                *(text for text in run.overrides if not _is(text, FOR_COST_KEYS)),
                *FOR_COST,
            ],
        )
        for run in planned
        if run.seed == 0
    }
    for run in measured.values():
        run.config, _ = _composed(run.overrides, own)
        if problems := _state(run):
            raise UserError(problems)
    print("\nthe operations of an example, measured by runs of one step:", flush=True)
    _train(list(measured.values()), own, again)
    flops = {label: _flops(run.folder) for label, run in measured.items()}
    budget = flops["none"] if not baseline else _flops(baseline[0].path)
    found = []
    for run in planned:
        ratio = budget / flops[run.label]
        assert run.config is not None
        runner = run.config.runner
        if abs(ratio - 1) >= SAME:
            key = "epochs" if runner.steps is None else "steps"
            value = (
                max(1, round(runner.steps * ratio))
                if runner.steps is not None
                else round((runner.epochs or 1) * ratio, 4)
            )
            others = [text for text in run.overrides if not _is(text, [f"runner.{key}"])]
            run = replace(run, overrides=[*others, f"runner.{key}={value}"])
            run.config, _ = _composed(run.overrides, own)
            run.folder = folder / _name(run)
        run.state = "trains"
        if problems := _state(run):
            raise UserError(problems)
        found.append(run)
    return found


FOR_COST = ["runner.steps=1", "data.max_eval_rows=64"]
FOR_COST_KEYS = [text.partition("=")[0] for text in FOR_COST] + ["runner.epochs"]
"""The overrides of a run that only measures operations, and the keys that it takes out."""
SAME = 0.005
"""The share by which operations may differ and count as equal."""


def _flops(run: Path) -> float:
    """Return the operations of an example in a finished run."""
    return float(read_run(run).results["cost"]["flops_per_example"])
