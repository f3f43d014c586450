"""Python files beside the YAML files of `-cd`: the methods of examples/plugin without a package."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from mtlcli import metrics
from mtlcli.config import METHODS, own_code, task_types
from mtlcli.config.schema import leaves
from mtlcli.config.section import _hints
from mtlcli.config.validate import _adapter
from mtlcli.runner import worker
from tests import warm
from tests.ranks import fork_ranks
from tests.runs.test_plugins import EXAMPLE, SMALL
from tests.runs.test_plugins import METHODS as CHOSEN

FILES = {
    "weighting/fade_in.py": "fade_in.py",
    "sampling/blocks.py": "blocks.py",
    "sharing/rescaled/__init__.py": "rescaled/__init__.py",
    "sharing/rescaled/trunk.py": "rescaled/trunk.py",
    "task/median.py": "median.py",
    "metrics/within_one.py": "within_one.py",
}
TRAIN = ["train", "-cd", "my_conf", "task=[length,polite]", *CHOSEN, *SMALL, "run_dir=run"]


def forget() -> None:
    """Let a process that was forked be as one that has just begun: it has imported nothing of the
    user, and read no schema."""
    for cached in (_hints, _adapter, leaves):
        cached.cache_clear()
    for registry in (*METHODS.values(), task_types):
        registry._configs = {
            name: config
            for name, config in registry.configs.items()
            if not config.__module__.startswith("mtl_own")
        }
    for name, entry in list(metrics.table().items()):
        if entry.function.__module__.startswith("mtl_own"):
            del metrics.table()[name]
    for module in [name for name in sys.modules if name.startswith("mtl_own")]:
        del sys.modules[module]
    own_code._imported = None


def forget_in_ranks() -> None:
    """Let the ranks that this process will fork be processes of their own."""
    main = worker.main

    def anew() -> None:
        forget()
        main()

    worker.main = anew


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two tasks and, as plain files, a method of each kind."""
    for name in ("my_conf", "rows"):
        shutil.copytree(EXAMPLE / name, tmp_path / name)
    for name, source in FILES.items():
        (tmp_path / "my_conf" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLE / "mtl_example" / source, tmp_path / "my_conf" / name)
    return tmp_path


def mtl(
    folder: Path, *arguments: str, before: tuple[Callable[[], None], ...] = (), cache: str = "cache"
) -> CompletedProcess[str]:
    return warm.mtl(*arguments, before=(forget, *before), cwd=folder, MTL_CACHE=str(folder / cache))


def test_a_run_is_trained_on_two_ranks_evaluated_and_resumed(folder: Path) -> None:
    done = mtl(
        folder,
        *(*TRAIN, "runner.devices=2", "runner.save_every=3", "runner.keep=10"),
        before=(fork_ranks, forget_in_ranks),
    )
    assert done.returncode == 0, done.stderr
    assert "note: methods are imported from my_conf: task/median.py" in done.stderr
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["tasks"]["length"]["main_metric"] == "within_one"
    evaluated = mtl(folder, "eval", "run", "--json", "again.json")
    assert evaluated.returncode == 0, evaluated.stderr
    again = json.loads((folder / "again.json").read_text())
    assert again["tasks"]["length"]["main"] == pytest.approx(results["tasks"]["length"]["main"])
    first = "resume=run/checkpoints/step_00000003"
    resumed = mtl(folder, "train", first, "runner.devices=1", "allow=[runner.devices]")
    assert resumed.returncode == 0, resumed.stderr
    recorded = json.loads((folder / "run" / "environment.json").read_text())["methods"]
    assert recorded["folder"] == str(folder / "my_conf") and [*recorded["files"]] != []


def test_a_saved_run_imports_only_what_this_user_has_imported_before(folder: Path) -> None:
    assert mtl(folder, *TRAIN).returncode == 0
    # The same folder in the hands of somebody else.
    stranger = mtl(folder, "eval", "run", cache="other")
    assert stranger.returncode == 2
    assert "a run folder alone cannot start code" in stranger.stderr
    assert f"mtl eval run -cd {folder / 'my_conf'}" in stranger.stderr
    assert mtl(folder, "eval", "run", "-cd", "my_conf", cache="other").returncode == 0
    assert mtl(folder, "eval", "run", cache="other").returncode == 0
    # Nothing is completed from files that were never imported, since TAB enters nothing.
    words = ("--complete", "zsh", "train", "-cd", "my_conf", "weighting=fa")
    assert "fade_in" in mtl(folder, *words).stdout
    assert "fade_in" not in mtl(folder, *words, cache="third").stdout
    file = folder / "my_conf" / "weighting" / "fade_in.py"
    file.write_text(file.read_text() + "# changed\n")
    for command in (("eval", "run"), ("train", "resume=run")):
        changed = mtl(folder, *command)
        assert changed.returncode == 2
        assert "gone or have changed since: weighting/fade_in.py" in changed.stderr
    used = mtl(folder, "eval", "run", "-cd", "my_conf")
    assert used.returncode == 0, used.stderr
    assert "warning: my_conf/weighting/fade_in.py is not what run began with" in used.stderr


def test_a_sweep_has_own_methods(folder: Path) -> None:
    words = ["train", "-m", *TRAIN[1:3], "task=polite", "weighting=fade_in,static", *SMALL]
    done = mtl(folder, *words, "run_dir=sweep")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (folder / "sweep").iterdir() if path.is_dir()} == {
        "0_weighting-fade_in",
        "1_weighting-static",
    }


def test_own_methods_are_listed(folder: Path) -> None:
    listed = mtl(folder, "tasks", "-cd", "my_conf")
    assert "weighting=fade_in" in listed.stdout and "sharing=rescaled" in listed.stdout
    forgotten = mtl(folder, "train", "task=rte", "weighting=fade_in")
    assert "add -cd my_conf, which holds weighting/fade_in.py" in forgotten.stderr


def test_every_file_that_cannot_be_used_is_named_with_line_and_remedy(folder: Path) -> None:
    own = folder / "my_conf"
    broken = {
        "weighting/gone.py": "\nimport nosuchmodule\n",
        "weighting/my-own.py": "",
        "weighting/taken.py": (own / "weighting/fade_in.py").read_text().replace("fade_in", "log"),
        "sampling/unfinished.py": "x = 1\nif x\n",
        "sampling/unnamed.py": (own / "sampling/blocks.py")
        .read_text()
        .replace('"blocks"', '"bare"', 1),
        "task/script.py": "raise SystemExit(0)\n",
        "metrics/nothing.py": "from . import _helper\n",
        "metrics/_helper.py": "",
    }
    for name, text in broken.items():
        (own / name).write_text(text)
    done = mtl(folder, *TRAIN)
    assert done.returncode == 2
    for line in (
        "weighting/gone.py, line 2: cannot be imported: ModuleNotFoundError: No module named",
        "weighting/my-own.py: 'my-own' is not a name that Python can import",
        "weighting 'log' is registered twice; choose another name",
        "sampling/unfinished.py, line 2: cannot be imported: SyntaxError",
        """the config of sampling 'bare' needs the field name: Literal["bare"] = "bare\"""",
        "task/script.py, line 1: cannot be imported: SystemExit: 0",
        "metrics/nothing.py: the file registers no method",
        '-> it needs @metric("NAME", "TASK TYPE"); the name of a helper begins with _',
    ):
        assert line in done.stderr
    assert "mtl train: 7 problems" in done.stderr
    assert not (folder / "run").exists()


def test_a_yaml_file_beside_them_still_runs_no_code(folder: Path) -> None:
    file = folder / "my_conf" / "weighting" / "mine.yaml"
    file.write_text("# @package _global_\nhydra: {job: {env_set: {X: '1'}}}\n")
    done = mtl(folder, *TRAIN[:4], "weighting=mine", *SMALL)
    assert done.returncode == 2
    assert "keys of hydra can start programs" in done.stderr
