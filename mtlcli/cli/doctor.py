"""The verb `mtl doctor`: what this machine and its packages are, and whether they work.

It has to work where packages are missing, so nothing outside Python's own library is imported
before its section, and what a section cannot import is reported.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import mtlcli
from mtlcli import extras
from mtlcli.cli import first_rank
from mtlcli.cli.parser import Parser
from mtlcli.disk import free, obstacle, size_text
from mtlcli.distributed.environment import read_launch
from mtlcli.errors import MtlError, Problem, count_of

HELP = """\
Say what this machine has, what is missing, and whether training works on it.

usage: mtl doctor [--json]

  --json   print one JSON object instead of text

It shows versions, devices and their number format, folders that keep data between commands, and
the extras that are not installed, each with what it is for. Then it trains a tiny model for two
steps, saves it, loads it again and compares the scores, which takes some seconds. Nothing is left
behind. The exit code is 0 if everything works, else 1; a missing extra is no fault.
"""
OLDEST = (3, 10)
"""The oldest Python that works."""
TEST = (
    *("task=[rte,stsb]", "data=sample", "model=tiny", "model.layers=1", "model.hidden=32"),
    *("model.heads=2", "data.max_length=64", "data.max_train_rows=32", "data.max_eval_rows=16"),
    *("data.warnings=off", "runner.steps=2", "runner.batch_size=8", "logger.console=plain"),
)
"""The run of the self-test."""
SAME = 1e-5
"""The largest difference of two scores that are the same: on a GPU sums have no fixed order."""


@dataclass
class Report:
    """What was found out. The fields are those of `--json`."""

    versions: dict[str, str] = field(default_factory=dict)
    """Of mtl, Python and the system."""
    packages: dict[str, str | None] = field(default_factory=dict)
    """The version of each package that is always needed; None: it is missing."""
    extras: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For each extra: what it is for, and which of its packages are missing."""
    devices: dict[str, Any] = field(default_factory=dict)
    """Processor, memory, GPUs and number formats."""
    caches: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Folders that keep data between commands."""
    self_test: dict[str, Any] = field(default_factory=dict)
    """Seconds of each part of the self-test; `skipped` says why there was none."""
    notes: list[str] = field(default_factory=list)
    """What works, though not as well as it could."""
    problems: list[Problem] = field(default_factory=list)
    """What does not work."""


def doctor_main(argv: list[str]) -> int:
    """Run `mtl doctor` and return the exit code: 0 if everything works, else 1."""
    parser = Parser(prog="mtl doctor", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.help:
        print(HELP, end="")
        return 0
    report = Report()
    show = first_rank() and not arguments.json
    for section, lines in SECTIONS.items():
        section(report)
        if show:
            print("\n".join(lines(report)), flush=True)
    if show:
        print("\n".join(_ending(report)))
    elif first_rank():
        problems = [asdict(problem) for problem in report.problems]
        whole = vars(report) | {"ok": not problems, "problems": problems}
        print(json.dumps(whole, indent=2))
    return int(bool(report.problems))


# ------------------------------------------------------------------------------------------------
# what is looked at


def _versions(report: Report) -> None:
    report.versions = {
        "mtl": mtlcli.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "program": sys.executable,
        "package": str(Path(mtlcli.__file__).parent),
    }
    if sys.version_info < OLDEST:
        what = f"Python {platform.python_version()} is too old"
        fix = f"install Python {'.'.join(map(str, OLDEST))} or newer"
        report.problems.append(Problem(what, sys.executable, fix))


def _packages(report: Report) -> None:
    needed, optional = extras.requirements()
    names = [extras.name_of(requirement) for requirement in needed]
    report.packages = {name: extras.installed(name) for name in names}
    install = f"type {sys.executable} -m pip install"
    checkout = Path(mtlcli.__file__).parents[1]
    where = f"--editable {checkout}" if (checkout / "setup.cfg").is_file() else "mtlcli"
    missing = [name for name, version in report.packages.items() if version is None]
    if missing:
        what = f"{count_of(len(missing), 'package')} missing: {', '.join(missing)}"
        report.problems.append(Problem(what, "packages", f"{install} {where}"))
    for requirement, version in zip(needed, report.packages.values(), strict=True):
        if version is not None and not _fits(requirement, version):
            what = f"version {version} is installed, and mtl needs {requirement}"
            fix = f"{install} '{requirement}'"
            report.problems.append(Problem(what, extras.name_of(requirement), fix))
    for name, requirements in sorted(optional.items()):
        lacking = [each for each in map(extras.name_of, requirements) if not extras.installed(each)]
        report.extras[name] = {"for": extras.ABOUT.get(name, ""), "missing": lacking}


def _fits(requirement: str, version: str) -> bool:
    """Return whether a version is one that a requirement allows; true where the package that reads
    requirements is itself missing, which is reported through others."""
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:
        return True
    return Requirement(requirement).specifier.contains(version, prereleases=True)


def _devices(report: Report) -> None:
    report.devices = {"processor": _processor(), "cores": os.cpu_count()}
    with _imports(report, "devices"):
        from mtlcli.memory import free_memory

        report.devices["free_memory"] = free_memory()
    with _imports(report, "devices"):
        import torch

        from mtlcli.config.machine import DRIVERS, HIDING
        from mtlcli.models.precision import choose_precision

        report.devices["torch"] = torch.__version__
        report.devices["threads"] = torch.get_num_threads()
        formats = {"cpu": choose_precision("auto", torch.device("cpu"))}
        gpus = []
        for number in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(number)
            gpus.append({"name": found.name, "memory": found.total_memory})
            formats[f"cuda:{number}"] = choose_precision("auto", torch.device("cuda", number))
        report.devices |= {"gpus": gpus, "number_format": formats}
        if not gpus and any(Path(driver).exists() for driver in DRIVERS):
            hidden = [name for name in HIDING if os.environ.get(name, "0").strip() in ("", "-1")]
            report.notes.append(
                f"{hidden[0]} hides the GPU of this machine: a run takes the CPU"
                if hidden
                else f"this machine has the driver of a GPU, and torch {torch.__version__} does "
                "not find one: install a torch that was built for it "
                "(https://pytorch.org/get-started), or a run takes the CPU"
            )


def _processor() -> str:
    """Return the name of the processor."""
    with contextlib.suppress(OSError):  # Other systems than Linux have no such file.
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _caches(report: Report) -> None:
    with _imports(report, "caches"):
        from mtlcli.config.paths import default_cache

        try:
            _cache(report, "encoded rows (MTL_CACHE)", default_cache())
        except MtlError as error:
            report.problems += error.problems
    with _imports(report, "caches"):
        from huggingface_hub import constants

        from mtlcli.data.hub import hub_answers, hub_endpoint, is_offline

        _cache(report, "models of the hub (HF_HOME)", Path(constants.HF_HUB_CACHE))
        answers = not is_offline() and hub_answers()
        report.caches["models of the hub (HF_HOME)"]["hub"] = answers
        if not answers:
            why = "HF_HUB_OFFLINE is set" if is_offline() else f"{hub_endpoint()} does not answer"
            report.notes.append(
                f"{why}: model=auto and data=auto take what is cached, else what is built in"
            )
    _cache(report, "temporary files (TMPDIR)", Path(tempfile.gettempdir()))


def _cache(report: Report, what: str, folder: Path) -> None:
    why = obstacle(folder, folder=True)
    report.caches[what] = {"path": str(folder), "free": free(folder), "writable": why is None}
    if why is not None:
        fix = "make it writable, or set the variable to another folder"
        report.problems.append(Problem(f"cannot be written: {why}", f"{what}: {folder}", fix))


def _self_test(report: Report) -> None:
    if report.problems:
        report.self_test = {"skipped": "the problems come first"}
        return
    try:
        if read_launch() is not None:
            report.self_test = {"skipped": "this process is one of several ranks"}
            return
    except MtlError as error:
        report.problems += error.problems
        return
    output = io.StringIO()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="mtl-doctor-") as place,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            _train_and_load(report, Path(place))
    except MtlError as error:
        report.problems += error.problems
    except Exception as error:
        if os.environ.get("MTL_DEBUG") == "1":
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        fix = "MTL_DEBUG=1 mtl doctor shows where"
        report.problems.append(Problem(what, "self-test", fix))


def _train_and_load(report: Report, place: Path) -> None:
    """Train and evaluate a tiny model, then load its checkpoint and compare the scores."""

    def timed(what: str, do: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = do()
        report.self_test[what] = round(time.perf_counter() - begin, 2)
        return result

    # Most of the time goes here, and says little about the machine.
    timed("load_libraries", lambda: import_module("mtlcli.runner.rank"))
    from mtlcli.cli.arguments import read_arguments
    from mtlcli.cli.preflight import preflight
    from mtlcli.evaluation.saved_run import evaluate_path
    from mtlcli.runner.job import run

    folder = place / "run"
    words = [*TEST, f"data.cache_dir={place / 'cache'}"]
    config = timed("compose", lambda: preflight(read_arguments(words)).configs[0])
    timed("train_and_save", lambda: run(config, folder, command=["mtl", "doctor"]))
    before = json.loads((folder / "results.json").read_bytes())
    after = timed("load_and_evaluate", lambda: evaluate_path(folder))
    for task, entry in before["tasks"].items():
        for metric, value in entry["metrics"].items():
            other = after["tasks"][task]["metrics"][metric]
            if not abs(value - other) <= SAME:
                what = f"{metric} of {task} was {value} in training and {other} once loaded"
                fix = "run it again; if it stays so, check memory and disk of this machine"
                report.problems.append(Problem(what, "self-test", fix))
    report.self_test["device"] = "cuda" if report.devices["gpus"] else "cpu"


@contextlib.contextmanager
def _imports(report: Report, section: str) -> Iterator[None]:
    """Report what cannot be imported inside the context: a package that is missing was named
    before; one that is damaged is a problem of its own."""
    try:
        yield
    except ModuleNotFoundError as error:
        if None not in report.packages.values():
            fix = "install it again: python -m pip install --force-reinstall"
            report.problems.append(Problem(str(error), section, fix))
    except (ImportError, OSError) as error:
        what = f"a library cannot be loaded: {' '.join(str(error).split())}"
        fix = "install the package again: python -m pip install --force-reinstall"
        report.problems.append(Problem(what, section, fix))


# ------------------------------------------------------------------------------------------------
# what is shown


def _show_versions(report: Report) -> list[str]:
    return _rows(report.versions)


def _show_packages(report: Report) -> list[str]:
    names = {name: version or "MISSING" for name, version in report.packages.items()}
    lines = ["packages", *_rows(names)]
    missing = {name: each for name, each in report.extras.items() if each["missing"]}
    there = [name for name in report.extras if name not in missing]
    lines += ["", "extras", *([f"  installed  {', '.join(there)}"] if there else [])]
    wide = max(map(len, missing), default=0)
    for name, each in missing.items():
        lines.append(f"  not there  {name:<{wide}}  {each['for'].replace('`', '')}")
    if missing:
        lines.append("  pip install 'mtlcli[NAME]' installs one of them")
    return ["", *lines]


def _show_devices(report: Report) -> list[str]:
    found = report.devices
    rows = {"processor": f"{found['processor']}, {count_of(found['cores'] or 1, 'core')}"}
    if "free_memory" in found:
        rows["memory"] = f"{size_text(found['free_memory'])} free"
    if "torch" in found:
        formats = found["number_format"]
        rows["torch"] = f"{found['torch']}, {count_of(found['threads'], 'thread')}"
        rows["CPU"] = f"number format {formats['cpu']}"
        for number, gpu in enumerate(found["gpus"]):
            size = size_text(gpu["memory"])
            rows[f"GPU {number}"] = (
                f"{gpu['name']}, {size}, number format {formats[f'cuda:{number}']}"
            )
        if not found["gpus"]:
            rows["GPU"] = "none"
    return ["", "devices", *_rows(rows)]


def _show_caches(report: Report) -> list[str]:
    rows = {}
    for what, each in report.caches.items():
        left = "" if each["free"] is None else f", {size_text(each['free'])} free"
        rows[what] = each["path"] + left + ("" if each["writable"] else ", NOT WRITABLE")
        if "hub" in each:
            rows["the hub"] = "answers" if each["hub"] else "not there; see the note"
    return ["", "caches", *_rows(rows)]


def _show_self_test(report: Report) -> list[str]:
    found = report.self_test
    seconds = {name: value for name, value in found.items() if isinstance(value, float)}
    rows = {name.replace("_", " "): f"{value:.1f} s" for name, value in seconds.items()}
    rows |= {"not run": found["skipped"]} if "skipped" in found else {}
    return ["", "self-test", *_rows(rows)]


def _ending(report: Report) -> list[str]:
    lines = ["", *(f"note: {note}" for note in report.notes)]
    if not report.problems:
        return [*lines, "everything works"]
    lines.append(count_of(len(report.problems), "problem"))
    return lines + [
        "  " + line for problem in report.problems for line in str(problem).splitlines()
    ]


def _rows(values: dict[str, str]) -> list[str]:
    wide = max(map(len, values), default=0)
    return [f"  {name:<{wide}}  {value}" for name, value in values.items()]


SECTIONS: dict[Callable[[Report], None], Callable[[Report], list[str]]] = {
    _versions: _show_versions,
    _packages: _show_packages,
    _devices: _show_devices,
    _caches: _show_caches,
    _self_test: _show_self_test,
}
"""What is looked at, in this order, and how it is shown."""
