"""The verb `mtl report RUN... --baseline RUN`: finished runs compared, in words, tables and a
page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mtlcli.cli.eval import import_methods
from mtlcli.cli.parser import Parser
from mtlcli.cli.typed import config_dir_problems
from mtlcli.config.paths import typed_path
from mtlcli.disk import obstacle
from mtlcli.errors import Problem, UserError
from mtlcli.output import say
from mtlcli.report import helping
from mtlcli.report.comparison import Comparison, compare
from mtlcli.report.finished import Finished, read_run
from mtlcli.report.methods import Method, methods_of, runs_in, together
from mtlcli.report.page import has_library, write_page
from mtlcli.report.words import costs, sentences, side_by_side, tables
from mtlcli.rundir.place import run_path_problems
from mtlcli.screen import screen

HELP = """\
Compare finished runs with a baseline: which tasks gain, which lose, by how much, how sure.

usage: mtl report RUN... --baseline RUN... [--together RUN...] [--to FILE.html] [-cd DIR]

  mtl report runs/hard --baseline runs/none
  mtl report sweeps/NAME --baseline sweeps/NAME/0_sharing-none      # all other jobs of a sweep
  mtl report hard_1 hard_2 hard_3 --baseline none_1 none_2 none_3 --to report.html
  mtl report runs/joint --baseline runs/only_rte runs/only_cola     # runs of single tasks
  mtl report runs/joint --baseline runs/none --together runs/rte+mnli runs/sst2+cola

  --baseline RUN...  what the others are compared with: one run, a run for each seed, or runs of
                     single tasks
  --together RUN...  runs of single tasks or of groups of tasks that are one candidate; may be typed
                     several times
  --to FILE.html     also write a page with curves, tables and plots, which needs no network
  -cd DIR            take the runs' methods and metrics from the Python files of this folder

Runs that differ by their seed alone are one method. All runs have to be scored on the same rows.
Nothing is trained or evaluated: scores are computed from the predictions that every run leaves, and
have to be those of its results.json. mtl compare also trains what is missing.
"""


def report_main(argv: list[str]) -> int:
    """Run `mtl report` and return the exit code."""
    parser = Parser(prog="mtl report", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=partial(typed_path, where="-cd"))
    parser.add_argument("--baseline", nargs="+", action="extend", default=[])
    parser.add_argument("--together", nargs="+", action="append", default=[])
    parser.add_argument("--to", type=partial(typed_path, where="--to"))
    parser.add_argument("paths", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.help:
        print(HELP, end="")
        return 0
    paths, baselines = (
        runs_in(typed_path(word, where) for word in words)
        for where, words in (("RUN", arguments.paths), ("--baseline", arguments.baseline))
    )
    groups = [
        runs_in(typed_path(word, "--together") for word in words) for words in arguments.together
    ]
    problems = [] if arguments.config_dir is None else config_dir_problems(arguments.config_dir)
    if not paths and not groups:
        problems.append(Problem("no run is given", "RUN", "mtl report RUN... --baseline RUN"))
    if not baselines:
        problems.append(
            Problem("no baseline is given", "--baseline", "give the run to compare with")
        )
    for path in (*paths, *baselines, *(path for group in groups for path in group)):
        problems += run_path_problems(path)
    problems += page_problems(arguments.to)
    if problems:
        raise UserError(problems)
    own = arguments.config_dir
    methods = baseline_and_others(
        read_runs(paths, own),
        read_runs(baselines, own),
        [read_runs(group, own) for group in groups],
    )
    show(compare(*methods), arguments.to)
    return 0


def page_problems(file: Path | None) -> list[Problem]:
    """Return the problems with the file of the page, which are found before anything is read."""
    if file is None:
        return []
    if not has_library():
        return [
            Problem(
                "the package with the code of the page's plots is not installed",
                f"--to {file}",
                "pip install 'mtlcli[report]'",
            )
        ]
    if why := obstacle(file, folder=False):
        return [Problem(f"the page cannot be written: {why}", f"--to {file}", "give another file")]
    if file.suffix.lower() not in (".html", ".htm"):
        fix = f"give a file such as {file.with_suffix('.html')}"
        return [Problem("the page is an HTML file", f"--to {file}", fix)]
    return []


def read_runs(paths: Sequence[Path], own: Path | None) -> list[Finished]:
    """Read run folders. Raises UserError with the problems of all of them. `own`: the folder behind
    `-cd`."""
    runs, problems = [], []
    for path in paths:
        try:
            for line in import_methods(path, own):
                say(line)
            runs.append(read_run(path))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return runs


def baseline_and_others(
    runs: Sequence[Finished],
    baseline: Sequence[Finished],
    groups: Sequence[Sequence[Finished]] = (),
) -> tuple[Method, list[Method]]:
    """Return the baseline, and the methods of the runs that are not in it. `groups`: runs that are
    one method, each of other tasks."""
    own = {run.path.resolve() for run in baseline}
    others = [run for run in runs if run.path.resolve() not in own]
    if not others and not groups:
        raise UserError(
            "there is no run beside the baseline", "RUN", "give the runs to compare with it"
        )
    methods = [together(group, "--together") for group in groups]
    for method in methods:
        parts = " | ".join("+".join(run.tasks) for run in method.first)
        # A task alone may share nothing, so the run of most tasks tells the method.
        most = max(method.first, key=lambda run: len(run.tasks))
        method.label = f"{most.config.sharing.name}: {parts}"
    return together(baseline), [*methods, *methods_of(others)]


def show(comparison: Comparison, page: Path | None) -> None:
    """Print a comparison, several candidates side by side first, and write its page."""
    out, whole = screen(), "" if page is None else str(page)
    of_tasks = bool(comparison.left_out)
    if len(comparison.candidates) > 1 and not of_tasks:
        out.print(side_by_side(comparison, whole))
    for table in (
        [helping.table(comparison, whole), costs(comparison, whole)]
        if of_tasks
        else tables(comparison, whole)
    ):
        out.print(table)
    for line in helping.sentences(comparison) if of_tasks else sentences(comparison):
        print(line)
    if page is not None:
        write_page(comparison, page)
        print(f"page: {page}")
