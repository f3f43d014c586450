"""`mtl merge`: the run folder that it makes is what the method says, and other verbs read it; what
cannot be merged is refused before anything is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mtlcli
from mtlcli.cli import main
from mtlcli.config.snapshot import load_config
from mtlcli.errors import UserError
from mtlcli.evaluation.saved_run import evaluate_path
from mtlcli.export.export import export
from mtlcli.merging import ties
from mtlcli.merging.base import BACKBONE, Copies
from mtlcli.merging.merge import Options, describe, merge
from mtlcli.merging.runs import initial_weights, merged_config, open_runs
from mtlcli.models.start import below, fingerprint
from mtlcli.prepare.prepare import prepare
from mtlcli.rundir.folder import RunFolder
from tests.small_run import resume, start

HELD = "splits.calibration={fraction: 0.3}"
SHORT = ("runner.steps=6", "runner.eval_every=6", "runner.save_every=6", "model.dropout=0")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on cola, stsb and rte, and two that have begun with it: `one` (cola) and `two` (rte and
    sst2)."""
    place = tmp_path_factory.mktemp("merge")
    start(place / "source", *SHORT)
    begin = f"init.from={place / 'source'}"
    start(place / "one", *SHORT, begin, "task=cola", f"tasks.cola.{HELD}", "optim.lr=0.01")
    held = (f"tasks.rte.{HELD}", f"tasks.sst2.{HELD}")
    start(place / "two", *SHORT, begin, "task=[rte,sst2]", *held, "optim.lr=0.01")
    return place


def merged(runs: Path, to: Path, method: str, *names: str, **options: Any) -> list[str]:
    """Merge runs in this process; return the lines that were shown."""
    lines: list[str] = []
    given: Options = options
    paths = [runs / name for name in names or ("one", "two")]
    made = merge(paths, to, method=method, options=given, command=["mtl"], say=lines.append)
    return lines + describe(made)


def weights(run: Path) -> dict[str, Tensor]:
    (folder,) = (run / "checkpoints").iterdir()
    return load_file(folder / "model.safetensors")


def test_the_folder_is_a_run(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "ties"
    arguments = ["merge", str(runs / "one"), str(runs / "two"), "--method", "ties"]
    assert main([*arguments, "--density", "0.3", "--scale", "0.8", "--to", str(to)]) == 0
    shown = capsys.readouterr().out
    assert "cola: " in shown and "in its own run" in shown
    found = weights(to)
    copies = [below(weights(runs / name), BACKBONE) for name in ("one", "two")]
    base = below(weights(runs / "source"), BACKBONE)
    expected = ties.merge(Copies(copies, base), scale=0.8, density=0.3)
    for name, tensor in expected.items():
        assert torch.equal(found[BACKBONE + name], tensor), name
    heads = {key: each for name in ("one", "two") for key, each in weights(runs / name).items()}
    for name in found.keys() - {BACKBONE + each for each in expected}:
        assert torch.equal(found[name], heads[name])
    config = load_config(to / "config.yaml")
    assert list(config.tasks) == ["cola", "rte", "sst2"] and config.sharing.name == "hard"
    record = json.loads((to / "environment.json").read_text())["merged"]
    assert (record["method"], record["options"]) == ("ties", {"scale": 0.8, "density": 0.3})
    assert [Path(each["run"]).name for each in record["runs"]] == ["one", "two"]

    results = json.loads((to / "results.json").read_text())
    assert evaluate_path(to)["tasks"] == results["tasks"]
    assert json.loads((to / "status.json").read_text())["status"] == "finished"
    assert len(mtlcli.load(to).predict(["a fine day"], task="sst2")) == 1
    export(to, tmp_path / "rte", task="rte")
    capsys.readouterr()
    alone = [str(runs / name) for name in ("one", "two")]
    assert main(["report", str(to), "--baseline", *alone]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("cola", "rte", "sst2")), shown
    with pytest.raises(UserError, match=r"(?s)merged out of other runs'.*init.from="):
        resume(to)
    begun = start(tmp_path / "begun", *SHORT, "task=rte", f"init.from={to}", "runner.steps=1")
    assert load_config(begun / "config.yaml").init.heads == ["rte"]


@pytest.mark.parametrize("method", ["average", "fisher", "regmean", "adamerging"])
def test_methods_that_read_rows(runs: Path, tmp_path: Path, method: str) -> None:
    options = {"adamerging": {"rows": 8, "steps": 2}, "average": {}}.get(method, {"rows": 4})
    merged(runs, tmp_path / "run", method, **options)
    copies = Copies([below(weights(runs / name), BACKBONE) for name in ("one", "two")])
    mean, found = copies.mean(), below(weights(tmp_path / "run"), BACKBONE)
    like = {name for name in mean if torch.allclose(found[name], mean[name], rtol=1e-4)}
    biases = {name for name in mean if not name.endswith("weight") or "LayerNorm" in name}
    assert like >= {"average": {*mean}, "regmean": biases}.get(method, set())
    assert method == "average" or "network.encoder.layer.0.output.dense.weight" not in like


def test_a_scale_is_chosen_on_rows_that_were_kept_out(runs: Path, tmp_path: Path) -> None:
    lines = merged(runs, tmp_path / "run", "task_arithmetic", scale="auto")
    tried = {
        float(line.split()[1].rstrip(":")): float(line.split()[3])
        for line in lines
        if line.startswith("scale") and ": average" in line
    }
    assert len(tried) == 8
    record = json.loads((tmp_path / "run" / "environment.json").read_text())["merged"]
    assert tried[record["options"]["scale"]] == max(tried.values())
    assert record["chosen"] == {"scale": "rows kept out of training"}


def test_the_initial_weights_are_built_again(runs: Path) -> None:
    """From the seed, where the run was built from scratch, and from the run of init.from; a change
    of the seed is noticed."""
    for name in ("source", "one"):
        opened, _ = open_runs([runs / name])
        config = merged_config(opened, runs / "none")
        tasks = prepare(config, files=opened[0].files, splits=lambda task: []).tasks
        base = initial_weights(opened, tasks)
        assert fingerprint(base) == opened[0].initial
    opened[0].environment["initial_weights"] = "another"
    with pytest.raises(UserError, match="cannot be built again: the result differs"):
        initial_weights(opened, tasks)


def test_the_copies_of_one_run(runs: Path, tmp_path: Path) -> None:
    """`sharing=none` keeps a backbone for each task; their merge is that of separate runs."""
    begin = f"init.from={runs / 'source'}"
    none = start(tmp_path / "none", *SHORT, begin, "task=[rte,sst2]", "sharing=none")
    merged(runs, tmp_path / "run", "task_arithmetic", str(none), scale=0.5)
    found, base = weights(tmp_path / "run"), below(weights(runs / "source"), BACKBONE)
    own = [below(weights(none), f"trunk.backbones.{name}.") for name in ("rte", "sst2")]
    for name, first in base.items():
        expected = first + 0.5 * sum(each[name] - first for each in own)
        assert torch.allclose(found[BACKBONE + name], expected, atol=1e-6), name
    config = load_config(tmp_path / "run" / "config.yaml")
    assert list(config.tasks) == ["rte", "sst2"] and config.sharing.name == "hard"
    record = json.loads((tmp_path / "run" / "environment.json").read_text())["merged"]
    assert [each["tasks"] for each in record["runs"]] == [["rte"], ["sst2"]]


def refusal(runs: Path, to: Path, method: str, *names: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        merged(runs, to, method, *names, **options)
    assert not to.exists()
    return "\n".join(map(str, caught.value.problems))


def test_refusals(runs: Path, tmp_path: Path) -> None:
    to = tmp_path / "run"
    text = refusal(runs, to, "average", "source", "two")
    assert "task rte is in" in text and "merge runs of different tasks" in text
    begin = f"init.from={runs / 'source'}"
    start(runs / "adapted", *SHORT, begin, "task=sst2", "sharing=adapters", "runner.steps=1")
    assert "sharing=adapters has no backbone that is plain" in refusal(
        runs, to, "average", "one", "adapted"
    )
    start(runs / "own", *SHORT, "task=sst2", "runner.steps=1")
    assert "another tokenizer" in refusal(runs, to, "average", "one", "own")
    start(runs / "stsb", *SHORT, begin, "task=stsb", "runner.steps=1")
    text = refusal(runs, to, "adamerging", "one", "stsb")
    assert "task stsb has no classes, whose entropy could be minimised" in text
    text = refusal(runs, to, "ties", "one", "stsb", scale="auto")
    assert "there are no rows to choose on: stsb kept none out of training" in text
    start(runs / "later", *SHORT, f"init.from={runs / 'one'}", "task=sst2", "runner.steps=1")
    text = refusal(runs, to, "ties", "one", "later")
    assert "has begun with other weights than" in text and "init.from=RUN, one run for all" in text
    assert any(
        "not known to have begun" in each for each in merged(runs, to, "average", "one", "later")
    )
    shutil.rmtree(to)
    (runs / "source").rename(runs / "elsewhere")
    text = refusal(runs, to, "ties")
    assert "there is no such folder" in text
    (runs / "elsewhere").rename(runs / "source")


def test_a_merge_into_the_folder_of_another_merge(runs: Path, tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "run")
    other.create()
    with pytest.raises(UserError, match="another run is writing here") as caught:
        merged(runs, other.path, "average", "one", "two")
    other.discard()
    assert caught.value.problems[0].fix == "wait for it, stop it, or give another --to"


def test_mistakes_on_the_command_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, to = str(runs / "one"), str(tmp_path / "run")
    assert main(["merge", one, "--method", "tie", "--to", to]) == 2
    said = capsys.readouterr().err
    assert "unknown method 'tie'" in said
    assert main(["merge", one, "--method", "ties", "--to", to]) == 2
    assert "one backbone, and there is nothing to merge it with" in capsys.readouterr().err
    assert main(["merge", one, one, "--method", "average", "--scale", "2", "--density", "x"]) == 2
    said = capsys.readouterr().err
    assert said.count("the option has no effect with --method average") == 2
    assert "no folder is given" in said
    assert main(["merge", one, one, "--method", "ties", "--density", "2", "--to", to]) == 2
    assert "must be a number from 0.001 to 1, found '2'" in capsys.readouterr().err
