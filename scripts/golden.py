"""Record what the tool computes, and compare two recordings to the bit.

A redesign must change nothing. `record` runs every pair of sharing and weighting, every sampling
policy, every optimiser with every schedule, options of these, and shapes of a run (accumulation,
ranks, resumes, task types, evaluation, a sweep). Each run has a few steps of a tiny model on the
sample world, in fp32, on the CPU, in one thread. A recording that was broken off goes on when the
same command is typed again, on the same commit. `compare` prints what differs.

    python scripts/golden.py record DIR [--tree CHECKOUT] [--only REGEX] [--jobs N] [--keep]
    python scripts/golden.py list [--tree CHECKOUT] [--only REGEX]
    python scripts/golden.py compare DIR DIR [--only REGEX] [--renamed NAMES] [--except REGEX]

The script uses only what outlives a redesign: the command line (`python -m mtlcli`), the file names
in `conf/`, and the files of a run folder. Compare recordings of one machine: elsewhere products
round differently.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import json
import os
import platform
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

STEPS = 6
BASE = [
    *("task=[cola,stsb,squad_v2]", "data=sample", "data.max_length=32", "data.warnings=off"),
    *("data.max_train_rows=48", "data.max_eval_rows=8", "tasks.squad_v2.max_length=48"),
    *("tasks.squad_v2.stride=16", "tasks.squad_v2.max_question_length=16"),
    *("model=tiny", "model.layers=2", "model.hidden=16", "model.heads=2", "model.vocabulary=400"),
    *("model.dropout=0.1", "sampling=all", "optim.lr=0.005", "optim.warmup=1"),
    *("runner.batch_size=4", f"runner.steps={STEPS}", "runner.eval_every=3", "runner.device=cpu"),
    *("runner.threads=1", "runner.precision=fp32", "logger.every=1", "logger.console=plain"),
    "run_dir=run",
]
"""Options of every training run; a case replaces those that it names."""

SUITES = {"glue_squad": ["cola", "stsb", "squad"]}
"""Those of its tasks that options name."""

MORE = {
    "annealed": ["weighting.tasks.stsb.start=3", "weighting.tasks.stsb.end=0.5"],
    "dwa": ["weighting.every=2"],
    "gradnorm": ["weighting.first_steps=2"],
    "stch": ["weighting.warmup=0.2", "weighting.reference=0.4"],
    "hierarchical": ["sharing.tasks.cola=0"],
}
"""Options with which a method acts within a few steps."""

VARIANTS = [
    "soft sharing.layers=[0]",
    "soft sharing.layers=[0] sharing.distance=trace_norm sharing.strength=0.1",
    "soft sharing.distance=pretrained sharing.strength=0.1",
    "hierarchical sharing.mix=true sharing.successive=0.1 sharing.successive_every=2",
    "adapters sharing.shared=true",
    "adapters sharing.shared=true sharing.layers=[-1]",
    "lora sharing.shared=true",
    "lora sharing.modules=all-linear",
    "mmoe sharing.layers=top",
    "mmoe sharing.gate=dselect_k",
    "cgc sharing.layers=all",
    "cgc sharing.gate=dselect_k",
    "ple sharing.gate=dselect_k sharing.levels=1",
    "task_embedding sharing.conditions=embeddings",
    "task_embedding sharing.conditions=norms",
    "attention sharing.layers=[-1]",
    "cross_stitch sharing.layers=[0]",
    "sluice sharing.orthogonality=0 sharing.last=0.5",
    "progressive sharing.lengths=[2,2] sharing.patience=1 runner.eval_every=1",
    "progressive task=[cola,stsb,mnli,squad_v2] sharing.stages=[[cola,stsb],[mnli,squad_v2]]",
]
WEIGHTING_OPTIONS = [
    *(f"mgda weighting.normalize={how}" for how in ("l2", "loss", "loss+")),
    *(f"aligned weighting.scale={how}" for how in ("median", "rmse")),
    *("nash weighting.max_norm=null", "fairgrad weighting.max_norm=null"),
    "fairgrad weighting.alpha=1",
    *("graddrop weighting.leak=0.5", "sdmgrad weighting.pull=0", "gradnorm weighting.alpha=0"),
    *("static logger.probe=1", "static logger.affinity=2"),
    "random weighting.distribution=dirichlet",
    *("cagrad logger.probe=1", "uncertainty logger.probe=2"),
]
APPROXIMATIONS = ["every=2", "last_layers=1", "projection=16", "rows=bf16"]
"""What every method has whose file in conf/weighting has the key `projection`."""
SAMPLED = ["static", "uncertainty", "famo", "mgda"]
SCHEDULES = ["linear", "cosine", "constant", "inverse_sqrt", "wsd"]
SHAPES = [
    "optim.layer_decay=0.5 optim.unfreeze_every=2",
    "optim.clip=null",
    "optim.clip=0.1 optim.weight_decay=0.1",
    "model.dropout=null",
    "model.attention=eager",
    "model.attention=sdpa model.dropout=null",
    "model.gradient_checkpointing=true",
    "model.pooling=mean",
    "model.pooling=pooler",
    "model.frozen_layers=1",
    "runner.together=false",
    "runner.together=false weighting=mgda",
    "runner.accumulation=2",
    "runner.accumulation=2 weighting=pcgrad",
    "runner.accumulation=2 weighting=famo sharing=mmoe",
    "runner.max_tokens=100",
    "runner.max_tokens=100 weighting=mgda sharing=soft sharing.layers=[0]",
    "runner.steps=null runner.epochs=1 runner.eval_every=null data.max_train_rows=20",
    "runner.steps=null runner.eval_every=null runner.eval_share=0.2 data.max_train_rows=20",
    "runner.eval_every=1 runner.patience=1",
    "runner.save_every=1 runner.keep=1 runner.eval_batch_size=3",
    "runner.devices=2",
    "runner.devices=2 weighting=pcgrad runner.accumulation=2",
    "runner.devices=2 weighting=uncertainty sharing=soft sampling=proportional",
    "runner.devices=2 weighting=famo sharing=cgc optim=muon",
    "task=stsb",
    "task=squad_v2",
    "task=squad",
    "task=mnli",
    "task=[mnli,ax] tasks.mnli.head_layers=2",
    "task=glue_squad",
    "tasks.cola.class_weights=balanced tasks.cola.label_smoothing=0.1",
    "tasks.cola.class_weights=[0.5,2] weighting=mgda",
    "tasks.cola.metrics=[f1_macro,accuracy] tasks.stsb.metrics=[pearson,mae,rmse]",
    "tasks.cola.batch_size=8 tasks.cola.dropout=0.5",
    "tasks.stsb.lr_factor=3 tasks.stsb.head_layers=2",
    "seed=7 data.sample_seed=3",
    "weighting=none_such",
    "sharing=hard sharing.strength=1 runner.steps=-1",
]
RESUMED = [
    *("weighting=static", "weighting=famo", "weighting=gradnorm", "weighting=dwa"),
    *("weighting=random", "weighting=mgda weighting.every=2", "weighting=nash"),
    *("sharing=progressive", "sharing=sluice"),
    *("sharing=soft sharing.distance=pretrained", "optim=muon optim.schedule=wsd"),
    *("sampling=temperature runner.accumulation=2", "runner.devices=2 weighting=pcgrad"),
]
"""Runs that go on again from their first checkpoint."""

TIMES = {"examples_per_s", "tokens_per_s", "seconds", "seconds_left", "throughput", "peak_memory"}
"""Keys of what a clock, or the memory of the process, has measured."""
MISSING = "missing"
"""What stands for a value that only one of two recordings has."""
ORDER = ["exit", "error", "runs", "status", "metrics", "results", "state", "checkpoint", "files"]
"""The order in which the parts of two runs are compared: first what says most."""
FOREIGN = ("MTL_", "HYDRA_", "SLURM_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "COLUMNS")
"""Beginnings of the names of environment variables that a recorded run must not see."""
PACKAGES = ["torch", "numpy", "scipy", "transformers", "tokenizers", "safetensors", "torchjd"]
TIMEOUT = 300.0
"""Seconds after which one command is killed."""


@dataclass
class Case:
    """One recorded run: a name, and the arguments of `mtl`, command by command."""

    name: str
    commands: list[list[str]]


def train(*options: str) -> list[str]:
    """Return the arguments of a training run with these options on top of BASE."""
    values = dict(each.split("=", 1) for each in (*BASE, *options))
    tasks = SUITES.get(values["task"]) or re.findall(r"\w+", values["task"])
    others = [key for key in values if key.startswith("tasks.") and key.split(".")[1] not in tasks]
    return ["train", *(f"{key}={value}" for key, value in values.items() if key not in others)]


def cases(tree: Path) -> list[Case]:
    """Return all cases for the methods that a checkout has."""

    def names(group: str) -> list[str]:
        return sorted(path.stem for path in (tree / "conf" / group).glob("*.yaml"))

    def more(options: list[str]) -> list[str]:
        chosen = dict(each.split("=", 1) for each in options)
        methods = [chosen.get("sharing", ""), chosen.get("weighting", "")]
        added = [each for method in methods for each in MORE.get(method, [])]
        return [each for each in added if each.split("=")[0] not in chosen]

    def case(text: str) -> Case:
        return Case(text, [train(*text.split(), *more(text.split()))])

    weightings, sharings, samplings = names("weighting"), names("sharing"), names("sampling")
    files = {name: (tree / "conf/weighting" / f"{name}.yaml").read_text() for name in weightings}
    balancing = [name for name in weightings if "\nprojection:" in files[name]]
    capped = "temperature sampling.temperature=5 sampling.cap=30"
    plain = [
        *(f"sharing={one} weighting={other}" for one in sharings for other in weightings),
        *(f"sharing={one} weighting={other}" for one in VARIANTS for other in ("static", "pcgrad")),
        *(f"weighting={text}" for text in WEIGHTING_OPTIONS),
        *(f"weighting={name} weighting.{text}" for name in balancing for text in APPROXIMATIONS),
        *(f"weighting={name} tasks.cola.weight=2 tasks.stsb.weight=0" for name in weightings),
        *(f"sampling={one} weighting={other}" for one in [*samplings, capped] for other in SAMPLED),
        *(f"optim={one} optim.schedule={other}" for one in names("optim") for other in SCHEDULES),
        *SHAPES,
    ]
    output = ["--json", "eval.json", "--predictions", "predictions"]
    resume = ["train", f"resume=run/checkpoints/step_{STEPS // 2:08d}"]
    found = [
        *map(case, plain),
        *(Case(f"{each.name}, resumed", [*each.commands, resume]) for each in map(case, RESUMED)),
        Case("evaluated", [train(), ["eval", "run", "--split", "test", *output]]),
        Case("sweep", [[*train("weighting=static,mgda", "seed=0,1"), "-m"]]),
    ]
    return list({each.name: each for each in found}.values())


# ------------------------------------------------------------------------------------------ record


def record(folder: Path, tree: Path, chosen: list[Case], *, jobs: int, keep: bool) -> None:
    """Run all cases that have not been run there, and write `folder/golden.json`."""
    pin(folder, tree)
    begin = time.monotonic()
    runs: dict[str, Any] = {}
    for case in chosen:
        if (file := place(folder, case) / "entry.json").is_file():
            entry = json.loads(file.read_text())
            if entry["argv"] == case.commands and entry["exit"][-1] in (0, 2):
                runs[case.name] = entry
    waiting = [case for case in chosen if case.name not in runs]
    running: dict[int, Case] = {}
    failed: set[str] = set()
    while waiting or running:
        while waiting and len(running) < jobs:
            case = waiting.pop(0)
            running[fork(partial(carry_out, case, place(folder, case), keep=keep))] = case
            if not runs:
                break  # The first run fills the cache, and tells which modules are worth importing.
        pid, status = os.wait()
        case = running.pop(pid)
        where = place(folder, case)
        entry = {"exit": [None], "error": "its folder cannot be read, see above"}
        if status == 0:
            entry = json.loads((where / "entry.json").read_text())
        runs[case.name] = entry
        import_as_children_did((where / "modules").read_text().split(), failed)
        if entry["exit"][-1] not in (0, 2):
            print(f"failed: {case.name}: {entry['error'].strip().splitlines()[-1:]}", flush=True)
        if len(runs) % 20 == 0:
            print(f"{len(runs)} of {len(chosen)}, {time.monotonic() - begin:.0f} s", flush=True)
    text = json.dumps({"recorded": circumstances(tree), "runs": runs}, indent=1, sort_keys=True)
    (folder / "golden.json").write_text(text + "\n")
    ends = Counter(entry["exit"][-1] for entry in runs.values())
    done, refused = ends[0], ends[2]
    others = len(runs) - done - refused
    seconds = f"{time.monotonic() - begin:.0f} s, {sum(os.times()[:4]):.0f} s of CPU"
    print(f"{len(runs)} runs: {done} done, {refused} refused, {others} failed; {seconds}")


def pin(folder: Path, tree: Path) -> None:
    """Give this process, and so its children, the surroundings of every recorded run."""
    for name in [*os.environ]:
        if name.startswith(FOREIGN):
            del os.environ[name]
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "MTL_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(tree),
    }
    # In the place of this script's own folder.
    sys.path[0] = str(tree)


def place(folder: Path, case: Case) -> Path:
    """Return the folder that a case runs in."""
    return folder / "cases" / re.sub(r"[^\w=.+-]+", "_", case.name)


def fork(work: Any) -> int:
    """Run a function in a child process, whose exit code it returns; return the process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work() or 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pid


def import_as_children_did(modules: list[str], failed: set[str]) -> None:
    """Import what a run has imported, so that the runs after it need not: that takes seconds."""
    for name in modules:
        if name not in sys.modules and name not in failed:
            try:
                importlib.import_module(name)
            except ImportError:  # A module that another one has made, without a file.
                failed.add(name)
    gc.collect()
    gc.freeze()


def carry_out(case: Case, where: Path, *, keep: bool) -> None:
    """Run the commands of a case one after the other, and write down what came of them."""
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    os.chdir(where)
    Path("modules").touch()
    codes = []
    for arguments in case.commands:
        codes.append(wait(fork(partial(become, arguments))))
        if codes[-1] != 0:
            break
    entry: dict[str, Any] = {"argv": case.commands, "exit": codes}
    if codes[-1] != 0:
        entry["error"] = Path("err").read_text().replace(str(where), ".")
    runs = [path.parent for path in sorted(Path().glob("run/**/metrics.jsonl"))]
    entry["runs"] = {str(path): read_run(path) for path in runs}
    entry["files"] = {str(path): read_json(path) for path in sorted(Path().glob("*.json"))}
    for path in sorted(Path().glob("predictions/*")):
        entry["files"][str(path)] = digest(path.read_bytes())
    if not keep:
        for path in Path().glob("run/**/*.safetensors"):
            path.unlink()
    Path("entry").write_text(json.dumps(entry))
    Path("entry").rename("entry.json")


def become(arguments: list[str]) -> int:
    """Be `mtl ARGUMENTS` in this process, and return its exit code."""
    os.setsid()
    for number, name in ((0, os.devnull), (1, "out"), (2, "err")):
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = ["mtl", *arguments]
    code: object = 1
    try:
        runpy.run_module("mtlcli", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        with Path("modules").open("a") as file:
            file.write("\n".join(sys.modules) + "\n")
    return code if isinstance(code, int) else 1


def wait(pid: int) -> int:
    """Return the exit code of a command (minus the signal that ended it); kill one that hangs."""
    deadline = time.monotonic() + TIMEOUT
    try:
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
            time.sleep(0.02)
    except KeyboardInterrupt:
        os.killpg(pid, signal.SIGKILL)
        raise


def read_run(folder: Path) -> dict[str, Any]:
    """Return what a run folder says about a run, without what may differ between equal runs."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = {"metrics": without_times(rows)}
    for name in ("status", "results"):
        if (folder / f"{name}.json").is_file():
            found[name] = read_json(folder / f"{name}.json")
    found["status"] = found["status"]["status"]
    checkpoints = sorted((folder / "checkpoints").glob("step_*"))
    if checkpoints:
        last = checkpoints[-1]
        found["state"] = read_json(last / "state.json")
        found["checkpoint"] = {
            "names": [path.name for path in checkpoints],
            "model.safetensors": digest((last / "model.safetensors").read_bytes()),
            "model": tensors(last / "model.safetensors"),
            "optimizer": tensors(last / "optimizer.safetensors"),
        }
    return found


def read_json(path: Path) -> Any:
    """Return the content of a JSON file without what was measured by a clock."""
    return without_times(json.loads(path.read_text()))


def without_times(value: Any) -> Any:
    """Return a JSON value without the keys in TIMES."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def tensors(path: Path) -> dict[str, Any]:
    """Return the number of tensors in a safetensors file, and one digest of all of them.

    The digest is that of names, types, shapes and bytes, and does not depend on the order of the
    tensors in the file.
    """
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    whole = hashlib.sha256()
    for name, each in sorted(header.items()):
        first, end = each["data_offsets"]
        whole.update(json.dumps([name, each["dtype"], each["shape"]]).encode())
        whole.update(data[begin + first : begin + end])
    return {"tensors": len(header), "sha256": whole.hexdigest()}


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def circumstances(tree: Path) -> dict[str, str]:
    """Return what a recording depends on beside the cases: the tree, processor, libraries."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(tree), *arguments], capture_output=True, text=True)
        return done.stdout.strip()

    changed = ", with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    found = {"commit": git("rev-parse", "HEAD") + changed, "python": platform.python_version()}
    found["processor"] = cpu.group(1) if cpu else platform.processor()
    return found | {name: metadata.version(name) for name in PACKAGES}


# ----------------------------------------------------------------------------------------- compare


def compare(one: Path, other: Path, *, only: str, renamed: list[str], meant: list[str]) -> int:
    """Print what differs between two recordings, run by run; return how many runs differ."""
    files = [path / "golden.json" if path.is_dir() else path for path in (one, other)]
    before, after = (json.loads(path.read_text()) for path in files)
    for name, value in before["recorded"].items():
        if after["recorded"].get(name) != value:
            print(f"note: {name} is {value} and {after['recorded'].get(name)}")
    runs, others = before["runs"], after["runs"]
    for text in renamed:
        group, _, names = text.partition("=")
        runs = rename(runs, group, *names.split(":"))
    pattern = re.compile("|".join(meant) or "$^")
    differing, expected = 0, 0
    together = [name for name in sorted(runs.keys() | others.keys()) if re.search(only, name)]
    for name in together:
        if name in runs and name in others:
            found = list(differences("", runs[name], others[name]))
        else:
            found = [("", *(("there", MISSING) if name in runs else (MISSING, "there")))]
        kept = [each for each in found if not pattern.search(f"{name}: {each[0]}")]
        expected += len(found) > len(kept)
        if kept:
            differing += 1
            key, first, second = kept[0]
            print(f"{name}: {key}\n  {short(first)}\n  {short(second)}")
            if len(kept) > 1:
                print(f"  and {len(kept) - 1} more")
    exceptions = f"; {expected} with differences that --except names" if meant else ""
    print(f"{differing} of {len(together)} runs differ{exceptions}")
    return differing


def rename(value: Any, group: str, old: str, new: str) -> Any:
    """Return a recording with a method's new name, in texts and where results name the method."""
    if isinstance(value, str):
        return re.sub(rf"\b{group}={old}(?![\w.-])", f"{group}={new}", value)
    if isinstance(value, list):
        return [rename(inner, group, old, new) for inner in value]
    if isinstance(value, dict):
        pairs = [(rename(key, group, old, new), key) for key in value]
        found = {name: rename(value[key], group, old, new) for name, key in pairs}
        if isinstance(found.get(group), dict) and found[group].get("name") == old:
            found[group]["name"] = new
        return found
    return value


def differences(key: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys at which two JSON values differ, with both values.

    The arguments of a run are not compared: the name of the case stands for them.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        found = one.keys() | other.keys()
        first = [name for name in ORDER if name in found]
        for name in [*first, *sorted(found - {*first, "argv"})]:
            inner = one.get(name, MISSING), other.get(name, MISSING)
            yield from differences(f"{key}.{name}" if key else name, *inner)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from differences(f"{key}[{number}]", first, second)
    # As text, so that NaN equals itself and 1 differs from 1.0.
    elif json.dumps(one) != json.dumps(other):
        yield key, one, other


def short(value: Any) -> str:
    """Return a value as it is shown in a difference."""
    text = value.strip() if isinstance(value, str) else json.dumps(value)
    return text.replace("\n", "\n  ") if len(text) < 1000 else f"{text[:1000]}..."


def main() -> int:
    """Run the command line of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    recorder = verbs.add_parser("record", help="run all cases and write DIR/golden.json")
    recorder.add_argument("folder", type=Path, metavar="DIR", help="a new folder, or one to go on")
    recorder.add_argument("--jobs", type=int, default=2, help="runs at a time; default: 2")
    recorder.add_argument("--keep", action="store_true", help="keep the checkpoints' tensors")
    lister = verbs.add_parser("list", help="print the names of the cases")
    comparer = verbs.add_parser("compare", help="print what differs; the exit code is 1 then")
    comparer.add_argument("folders", type=Path, nargs=2, metavar="DIR")
    own = Path(__file__).parents[1]
    for verb in (recorder, lister):
        verb.add_argument("--tree", type=Path, default=own, help="another checkout to run")
    for verb in (recorder, lister, comparer):
        verb.add_argument("--only", default="", metavar="REGEX", help="the cases that are meant")
    renamed = "GROUP=OLD:NEW, a method's name in the first and in the second recording"
    comparer.add_argument("--renamed", action="append", default=[], metavar="NAMES", help=renamed)
    meant = "differences that are meant, as 'RUN: KEY'"
    comparer.add_argument("--except", action="append", default=[], dest="meant", help=meant)
    arguments = parser.parse_args()
    if arguments.verb == "compare":
        for text in arguments.renamed:
            if not re.fullmatch(r"\w+=\w+:\w+", text):
                parser.error(f"--renamed {text}: type it as GROUP=OLD:NEW")
        one, other = arguments.folders
        options = {name: getattr(arguments, name) for name in ("only", "renamed", "meant")}
        return 1 if compare(one, other, **options) else 0
    tree = arguments.tree.resolve()
    chosen = [case for case in cases(tree) if re.search(arguments.only, case.name)]
    if not chosen:
        parser.error(f"no case matches --only '{arguments.only}'; `list` prints the names")
    if arguments.verb == "list":
        print("\n".join(case.name for case in chosen))
        return 0
    folder = arguments.folder.resolve()
    mark, present = folder / "recorded.json", json.dumps(circumstances(tree))
    if folder.exists() and any(folder.iterdir()):
        known = mark.is_file() and mark.read_text() == present
        if not known or not re.search(r'"commit": "\w+"', present):
            parser.error(f"{folder} holds something else; give a new folder, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(present)
    record(folder, tree, chosen, jobs=arguments.jobs, keep=arguments.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
