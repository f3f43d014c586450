"""The verb `mtl export RUN --task T --to DIR`: write a task's model in a form that other programs
load."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mtlcli import commands
from mtlcli.cli.eval import import_methods, path_problems
from mtlcli.cli.parser import Parser
from mtlcli.cli.typed import config_dir_problems
from mtlcli.config.paths import typed_path
from mtlcli.disk import obstacle
from mtlcli.errors import Problem, UserError
from mtlcli.output import say
from mtlcli.pulse import Pulse
from mtlcli.registry import suggest

FORMATS = ("hf", "onnx", "safetensors")

HELP = """\
Write one task of a run (its best checkpoint), or of one checkpoint, as a folder for other programs.

usage: mtl export PATH [--task T] --to DIR [--format hf|onnx|safetensors] [--int8]
                  [--license ID] [-cd DIR]

  mtl export runs/NAME --task rte --to rte
  mtl export runs/NAME --task squad --to squad --format onnx --int8

  --task T           the task; needed where the run has several
  --to DIR           a new folder
  --format hf        a folder of the transformers library: AutoModelFor... and pipeline load it.
                     Where the library has no class that computes the same, the folder brings its
                     own code (trust_remote_code=True), and a line says why
  --format onnx      model.onnx, for any number of inputs of any length, and the tokenizer; needs
                     pip install 'mtlcli[onnx]'
  --format safetensors
                     the tensors, and mtl_export.json, which says what they are
  --int8             with onnx: matrices in 8 bits. The largest change of an output is shown
  --license ID       for the model card, such as apache-2.0; without it, the card says that no
                     licence is known
  -cd DIR            take the run's methods from the Python files of this folder; not needed for
                     files that you have used before and that have not changed

Every folder has a model card, README.md. What was written is loaded again and compared with the
run's own model before it takes its place. Nothing is uploaded: that is mtl push.
"""


def export_main(argv: list[str]) -> int:
    """Run `mtl export` and return the exit code."""
    parser = Parser(prog="mtl export", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=partial(typed_path, where="-cd"))
    parser.add_argument("--task")
    parser.add_argument("--to", type=partial(typed_path, where="--to"))
    parser.add_argument("--format", default="hf")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--license")
    parser.add_argument("paths", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.help:
        print(HELP, end="")
        return 0
    own: Path | None = arguments.config_dir
    problems = [] if own is None else config_dir_problems(own)
    problems += path_problems(arguments.paths, "mtl export PATH")
    problems += format_problems(arguments.format, int8=arguments.int8)
    if arguments.to is None:
        problems.append(Problem("no folder is given", "--to", "type --to DIR, a new folder"))
    elif why := obstacle(arguments.to, folder=True):
        what = f"the folder cannot be written: {why}"
        problems.append(Problem(what, f"--to {arguments.to}", "give another folder"))
    if problems:
        raise UserError(problems)
    path = typed_path(arguments.paths[0], "PATH")

    # Print this line before the imports, which take seconds.
    say(f"mtl export: reading {path}")
    for line in import_methods(path, own):
        say(line)
    from mtlcli.export.export import export

    with Pulse(stderr=True):
        made = export(
            path,
            arguments.to,
            task=arguments.task,
            format=arguments.format,
            int8=arguments.int8,
            license=arguments.license,
            say=say,
        )
    for line in made.lines:
        print(line)
    print(f"written: {arguments.to}")
    print(f"publish it, if you want to: {commands.push(arguments.to)}")
    return 0


def format_problems(format: str, *, int8: bool) -> list[Problem]:
    """Return the problems with the options about the form of an export."""
    if format not in FORMATS:
        return [Problem(f"unknown format '{format}'", "--format", suggest(format, FORMATS))]
    if int8 and format != "onnx":
        return [
            Problem(f"the option has no effect with --format {format}", "--int8", "take it out")
        ]
    return []
