"""The verb `mtl predict PATH`: label new rows with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mtlcli import garbage
from mtlcli.cli import first_rank
from mtlcli.cli.eval import (
    import_methods,
    override_problems,
    overrides_among,
    path_problems,
    saved_of,
)
from mtlcli.cli.parser import Parser
from mtlcli.cli.typed import config_dir_problems
from mtlcli.config.paths import typed_path
from mtlcli.data.stream import STREAMED, Input
from mtlcli.disk import obstacle
from mtlcli.distributed.environment import read_launch
from mtlcli.errors import Problem, UserError, count_of
from mtlcli.output import say
from mtlcli.pulse import Pulse
from mtlcli.screen import screen

if TYPE_CHECKING:
    from mtlcli.predict.stream import Counts

HELP = """\
Label new rows with the model of a run folder (its best checkpoint) or of one checkpoint folder.

usage: mtl predict PATH [--task T[,T ...]] [--input FILE|-] [--output FILE|-] [--format F]
                   [--header A,B,...] [--texts] [--strict] [-cd DIR] [KEY=VALUE ...]
       mtl predict PATH --submission glue|superglue --output ZIP [--partial] [KEY=VALUE ...]

  mtl predict RUN --task sst2 --input reviews.csv --output labels.jsonl
  cat lines.txt | mtl predict RUN --task sst2 | head
  mtl predict RUN --task sst2,cola --input reviews.parquet --output both.jsonl
  mtl predict RUN --task mine --input new.tsv tasks.mine.columns.text=review
  mtl predict RUN --submission glue --output glue.zip data.source=hub

  --task T[,T ...]   the tasks; may be left out where the run has only one. Several tasks read the
                     same rows, and go through layers that they share only once
  --input FILE|-     rows with the columns of the tasks: csv, tsv, jsonl, parquet or plain lines
                     (.txt), also compressed (.gz, .bz2, .xz, .zst); - (default): standard input
  --output FILE|-    a line of JSON for each row, in order; - (default): standard output. A file
                     gets its name once it is complete
  --format F         what the input is: csv, tsv, jsonl, txt or parquet; default: as its name says,
                     and for standard input jsonl if it begins with {, else plain lines
  --header A,B,...   the names of the columns of a csv or tsv input without a header line
  --texts            write the texts of the rows, too
  --strict           stop at the first row that cannot be read. Otherwise such a row is named on
                     standard error, and its line has the key `error` and no prediction
  --submission B     write the zip that the site of GLUE or SuperGLUE takes, from the test splits
                     of the run's tasks; KEY=VALUE is then as for mtl eval
  --partial          accept test sets without a task, which are filled with a constant prediction,
                     and another number of rows than the official one
  -cd DIR            take the run's methods from the Python files of this folder, as for mtl eval
  KEY=VALUE          change the columns of a task (tasks.T.columns.text=NAME), what is made of the
                     model's outputs (max_answer_length, n_best, no_answer_threshold, text.*), or
                     what computes them (runner.device, threads, precision, eval_batch_size, fast,
                     packing)

Memory does not grow with the input. docs/predict.md describes the lines.
"""


def predict_main(argv: list[str]) -> int:
    """Run `mtl predict` and return the exit code."""
    parser = Parser(prog="mtl predict", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=partial(typed_path, where="-cd"))
    parser.add_argument("--task", nargs="+", action="extend", default=[])
    parser.add_argument("--input", default="-")
    parser.add_argument("--output", default="-")
    parser.add_argument("--format", choices=STREAMED)
    parser.add_argument("--header")
    parser.add_argument("--texts", action="store_true")
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--submission", choices=("glue", "superglue"))
    parser.add_argument("--partial", action="store_true")
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.help:
        print(HELP, end="")
        return 0
    overrides = overrides_among([*arguments.rest, *arguments.task])
    paths = [typed_path(word, "PATH") for word in arguments.rest if word not in overrides]
    tasks = [
        name.strip()
        for word in arguments.task
        if word not in overrides
        for name in word.split(",")
        if name.strip()
    ]
    into = None if arguments.output == "-" else typed_path(arguments.output, "--output")
    _check(paths, into, arguments.config_dir)
    if arguments.submission is not None:
        return _submit(arguments, paths[0], into, overrides)
    if arguments.partial:
        raise UserError("the option has no effect without --submission", "--partial", "take it out")
    file = None if arguments.input == "-" else typed_path(arguments.input, "--input")
    if file is not None and into is not None and file.resolve() == into.resolve():
        raise UserError("the input would be overwritten", f"--output {into}", "give another file")
    header = None if arguments.header is None else arguments.header.split(",")
    source = Input(file, arguments.format, header)
    if file is None and sys.stdin.isatty():
        print("mtl predict: reading from the terminal; Ctrl-D ends the input", file=sys.stderr)
    counts = _predict(
        paths[0],
        tasks,
        source,
        into,
        overrides=overrides,
        config_dir=arguments.config_dir,
        texts=arguments.texts,
        strict=arguments.strict,
    )
    where = "" if into is None else f" in {into}"
    done = f"{count_of(counts.rows - counts.left_out, 'row')} predicted{where}"
    left = f", {counts.left_out:,} left out" if counts.left_out else ""
    print(f"mtl predict: {done}{left}", file=sys.stderr)
    return 0


def _submit(arguments: Any, path: Path, into: Path | None, overrides: list[str]) -> int:
    """Write a submission, and return the exit code."""
    idle = [
        option
        for option, given in {
            "--task": arguments.task,
            "--input": arguments.input != "-",
            "--format": arguments.format,
            "--header": arguments.header,
            "--texts": arguments.texts,
            "--strict": arguments.strict,
        }.items()
        if given
    ]
    problems = [
        Problem("the option has no effect with --submission", option, "take it out")
        for option in idle
    ]
    problems += override_problems(overrides, saved_of(path))
    if into is None or into.suffix != ".zip":
        problems.append(Problem("a submission is a zip file", "--output", "--output NAME.zip"))
    if problems or into is None:
        raise UserError(problems)
    methods = import_methods(path, arguments.config_dir)
    for line in [f"mtl predict: predicting the test sets with {path}", *methods]:
        say(line)
    with Pulse(stderr=True):
        from mtlcli.predict.submission import write_submission

        write_submission(
            arguments.submission,
            path,
            into,
            overrides=overrides,
            partial=arguments.partial,
            say=say,
        )
    print(f"mtl predict: wrote {into}", file=sys.stderr)
    return 0


def _predict(
    path: Path,
    tasks: list[str],
    source: Input,
    into: Path | None,
    *,
    overrides: list[str],
    config_dir: Path | None,
    texts: bool,
    strict: bool,
) -> Counts:
    # Print this line before the imports, which take seconds.
    say(f"mtl predict: loading {path}")
    with Pulse(stderr=True):
        from mtlcli.evaluation.predictions import check_overwrites
        from mtlcli.predict.load import load
        from mtlcli.predict.stream import predict_rows, written_whole

        model = load(path, overrides=overrides, config_dir=config_dir, say=say)
    garbage.at_work()
    names = _names(model, tasks)
    _check_idle(overrides, names)
    if into is not None:
        check_overwrites(model.config, model.path, {f"--output {into}": into})

    def run(stream: IO[str], on_part: Callable[[Counts], None]) -> Counts:
        def write(text: str) -> None:
            stream.write(text)
            stream.flush()

        return predict_rows(
            model, source, names, write, texts=texts, strict=strict, say=say, on_part=on_part
        )

    with _bar(source, into) as on_part:
        if into is None:
            return run(sys.stdout, on_part)
        with written_whole(into) as stream:
            return run(stream, on_part)


def _names(model: Any, tasks: list[str]) -> list[str]:
    """Return the tasks to predict. Raises UserError, with the option, where they are wrong."""
    try:
        names: list[str] = model.names(tasks or None)
    except UserError as error:
        raise UserError(
            [Problem(each.what, "--task", each.fix) for each in error.problems]
        ) from error
    return names


def _check(paths: list[Path], into: Path | None, own: Path | None) -> None:
    """Raise UserError for every mistake that can be found before the checkpoint is read."""
    problems = [] if own is None else config_dir_problems(own)
    problems += path_problems(paths, "mtl predict PATH --task T")
    if into is not None and (why := obstacle(into, folder=False)):
        fix = "give a file in a folder that you can write to"
        problems.append(Problem(f"the file cannot be written: {why}", f"--output {into}", fix))
    launch = read_launch()
    if launch is not None and launch.world_size > 1 and first_rank():
        what = f"one process predicts, and {launch.world_size} were launched"
        problems.append(Problem(what, "mtl predict", "start it without torchrun or srun"))
    if problems:
        raise UserError(problems)


def _check_idle(overrides: list[str], names: list[str]) -> None:
    """Raise UserError for settings of tasks that are not predicted."""
    keys = [override.partition("=")[0] for override in overrides]
    others = [key for key in keys if key.startswith("tasks.") and key.split(".")[1] not in names]
    if others:
        raise UserError(
            [
                Problem(
                    f"the value has no effect: task {key.split('.')[1]} is not predicted",
                    key,
                    "take it out",
                )
                for key in others
            ]
        )


@contextmanager
def _bar(source: Input, into: Path | None) -> Iterator[Callable[[Counts], None]]:
    """Show a progress bar on a terminal, unless the predictions go there."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = screen(stderr=True)
    if not console.is_terminal or (into is None and sys.stdout.isatty()):
        yield lambda counts: None
        return
    columns = (TextColumn("predicting"), BarColumn(), TextColumn("{task.fields[rows]:,} rows"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("", total=source.size or None, rows=0)
        yield lambda counts: progress.update(bar, completed=source.read, rows=counts.rows)
