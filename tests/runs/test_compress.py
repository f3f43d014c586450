"""`mtl compress`: the run folder that it makes is what the method says, and other verbs read it;
what cannot be made smaller, or be done with the result, is refused before anything is made."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mtlcli
from mtlcli.cli import main
from mtlcli.compression.compress import compress
from mtlcli.config.snapshot import load_config
from mtlcli.errors import UserError
from mtlcli.evaluation.saved_run import evaluate_path
from mtlcli.export.export import export
from mtlcli.merging.merge import merge
from tests.small_run import resume, start

SHORT = (
    *("runner.steps=6", "runner.eval_every=6", "runner.save_every=6", "model.dropout=0"),
    *("model.layers=2", "model.hidden=32", "model.heads=4"),
)
AGAIN = (*SHORT, "runner.steps=1", "task=rte")
needs_torchao = pytest.mark.skipif(
    find_spec("torchao") is None, reason="matrices in 8 bits need mtlcli[int8]"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on cola, stsb and rte, and the same with half of its heads."""
    place = tmp_path_factory.mktemp("compress")
    start(place / "whole", *SHORT)
    arguments = ["compress", str(place / "whole"), "--method", "heads", "--rows", "8"]
    assert main([*arguments, "--to", str(place / "heads")]) == 0
    return place


def made(runs: Path, name: str, to: Path, method: str, **options: float) -> dict[str, Any]:
    return compress(
        runs / name, to, method=method, options=options, command=["mtl"], say=lambda line: None
    )


def refusal(runs: Path, name: str, to: Path, method: str, **options: float) -> str:
    with pytest.raises(UserError) as caught:
        made(runs, name, to, method, **options)
    assert not to.exists()
    return "\n".join(map(str, caught.value.problems))


def weights(run: Path) -> dict[str, Tensor]:
    (folder,) = (run / "checkpoints").iterdir()
    return load_file(folder / "model.safetensors")


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def test_a_run_without_heads(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, heads = runs / "whole", runs / "heads"
    gone = read(heads, "backbone/backbone.json")["architecture"]["pruned_heads"]
    assert sum(map(len, gone.values())) == 4
    before, after = weights(whole), weights(heads)
    assert before.keys() == after.keys()
    for layer in range(2):
        kept = [head for head in range(4) if head not in gone.get(str(layer), [])]
        name = f"trunk.backbone.network.encoder.layer.{layer}.attention"
        for part, dim in (
            ("self.key.weight", 0),
            ("self.value.bias", 0),
            ("output.dense.weight", 1),
        ):
            found = before[f"{name}.{part}"].unflatten(dim, (4, 8))
            expected = found.index_select(dim, torch.tensor(kept)).flatten(dim, dim + 1)
            assert torch.equal(after[f"{name}.{part}"], expected)
    results = read(heads, "results.json")
    found = results["compressed"]
    mains = {name: entry["main"] for name, entry in evaluate_path(whole)["tasks"].items()}
    assert found["before"]["tasks"] == mains
    sizes = [
        sum(file.stat().st_size for file in run.glob("checkpoints/*/model.safetensors"))
        for run in (whole, heads)
    ]
    assert found["bytes"] == sizes and sizes[1] < sizes[0]
    # 4 heads of size 8 less: 4 matrices of 32 x 8 for each, 3 biases of 8.
    assert found["parameters"][0] - found["parameters"][1] == 4 * (4 * 32 * 8 + 3 * 8)
    assert all(speed > 0 for speed in found["examples_per_s"])
    assert read(heads, "environment.json")["compressed"]["run"] == str(whole)

    assert evaluate_path(heads)["tasks"] == results["tasks"]
    assert read(heads, "status.json")["status"] == "finished"
    assert len(mtlcli.load(heads).predict([("a day", "a fine day")], task="rte")) == 1
    exported = export(heads, tmp_path / "rte", task="rte")
    assert exported.record["class"] == "BertForSequenceClassification"
    assert exported.record["difference"] < 1e-5
    assert "heads that were removed are there again, as zeros" in "\n".join(exported.lines)
    capsys.readouterr()
    assert main(["report", str(heads), "--baseline", str(whole)]) == 0
    assert all(name in capsys.readouterr().out for name in ("cola",))


def test_training_goes_on_without_heads(runs: Path, tmp_path: Path) -> None:
    begun = start(tmp_path / "begun", *AGAIN, f"init.from={runs / 'heads'}")
    assert load_config(begun / "config.yaml").init.heads == ["rte"]
    shapes = [
        {name: each.shape for name, each in weights(run).items() if name.startswith("trunk")}
        for run in (begun, runs / "heads")
    ]
    assert shapes[0] == shapes[1]
    assert evaluate_path(begun)["tasks"] == read(begun, "results.json")["tasks"]
    cut = start(
        tmp_path / "cut", *AGAIN, f"init.from={runs / 'heads'}", "init.layers=[1]", "model.layers=1"
    )
    gone = read(runs / "heads", "backbone/backbone.json")["architecture"]["pruned_heads"]
    assert read(cut, "backbone/backbone.json")["architecture"]["pruned_heads"] == (
        {"0": gone["1"]} if "1" in gone else {}
    )
    # More heads of a run that lacks some: they are counted as before any was removed.
    made(runs, "heads", tmp_path / "fewer", "heads", remove=0.25, rows=4)
    fewer = read(tmp_path / "fewer", "backbone/backbone.json")["architecture"]["pruned_heads"]
    assert sum(map(len, fewer.values())) == 5
    assert all(set(heads) <= set(fewer[layer]) for layer, heads in gone.items())
    with pytest.raises(UserError, match=r"(?s)made smaller out of another run's.*heads"):
        resume(runs / "heads")
    with pytest.raises(UserError, match="a prefix is as wide as all heads of a layer"):
        start(
            tmp_path / "prefix",
            *AGAIN,
            f"init.from={runs / 'heads'}",
            "sharing=prefix",
        )
    assert not (tmp_path / "prefix").exists()


@needs_torchao
def test_a_run_in_8_bits(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "int8"
    results = made(runs, "heads", to, "int8")
    found = results["compressed"]
    assert found["bytes"][1] < 0.8 * found["bytes"][0]
    assert found["precision"] == ["fp32", "fp32"]
    tensors = weights(to)
    kinds = {
        name: each.dtype for name, each in tensors.items() if name.endswith("query.weight.qdata")
    }
    assert len(kinds) == 2 and {*kinds.values()} == {torch.int8}
    assert evaluate_path(to)["tasks"] == results["tasks"]
    # 8 validation rows: predictions of rows that are not nearly tied stay the same.
    for name, before in found["before"]["tasks"].items():
        assert results["tasks"][name]["main"] == pytest.approx(before, abs=0.3)
    rows = [("a day", "a fine day"), ("the cat sat", "a dog ran")]
    before, after = (
        [each["probabilities"] for each in mtlcli.load(run).predict(rows, task="rte")]
        for run in (runs / "heads", to)
    )
    for one, other in zip(before, after, strict=True):
        assert one == pytest.approx(other, abs=0.02)

    # It teaches in its own format, whatever that of the run is.
    words = ("augmentation=distill", f"augmentation.teachers=[{to}]", "runner.precision=bf16")
    start(tmp_path / "taught", *AGAIN, *words)
    assert (
        read(tmp_path / "taught", "results.json")["teachers"]["tasks"]["rte"]["score"]
        == (results["tasks"]["rte"]["main"])
    )
    assert main(["report", str(to), str(runs / "heads"), "--baseline", str(runs / "whole")]) == 0
    said = capsys.readouterr().out
    for label in ("compressed int8", "compressed heads"):
        assert f"{label} (1 seed) against hard (1 seed)" in said

    made_of = str(runs / "heads")
    with pytest.raises(UserError, match=r"(?s)in 8 bits, and training needs them.*init.from="):
        start(tmp_path / "begun", *AGAIN, f"init.from={to}")
    with pytest.raises(UserError, match=f"(?s)so no training can go on.*{made_of}"):
        resume(to)
    with pytest.raises(UserError, match="in 8 bits, which is no format of an export"):
        export(to, tmp_path / "exported", task="rte")
    with pytest.raises(UserError, match="in 8 bits, and merging needs them in full"):
        merge(
            [to, runs / "whole"],
            tmp_path / "merged",
            method="average",
            options={},
            command=["mtl"],
            say=lambda line: None,
        )
    runs_of = tmp_path
    assert "in 8 bits already" in refusal(runs_of, "int8", tmp_path / "none", "heads")
    assert not [*tmp_path.glob("begun*"), *tmp_path.glob("exported*"), *tmp_path.glob("merged*")]


def test_refusals(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    to = tmp_path / "run"
    text = refusal(runs, "heads", to, "heads", remove=0.9)
    assert "4 of 4 heads would be removed, and each of 2 layers keeps one" in text
    assert "from 1 to 2 heads can be removed" in text
    assert "0 of 4 heads" in refusal(runs, "heads", to, "heads", remove=0.01)
    start(tmp_path / "adapted", *SHORT, "runner.steps=1", "sharing=adapters")
    text = refusal(tmp_path, "adapted", to, "heads")
    assert "sharing=adapters has added to the layers" in text
    with monkeypatch.context() as full:
        full.setattr("mtlcli.prepare.disk_space.free", lambda place: 100_000)
        text = refusal(runs, "whole", to, "heads")
    assert "make room there, or give --to on another disk" in text
    monkeypatch.setattr("mtlcli.models.int8.find_spec", lambda name: None)
    text = refusal(runs, "whole", to, "int8")
    assert "need the package torchao" in text and "pip install 'mtlcli[int8]'" in text

    whole = str(runs / "whole")
    assert main(["compress", whole, whole, "--method", "head", "--to", whole]) == 2
    said = capsys.readouterr().err
    assert "expected one path, found 2" in said and "unknown method 'head'" in said
    assert "the folder is not empty" in said
    assert main(["compress", whole, "--method", "int8", "--remove", "0.5"]) == 2
    said = capsys.readouterr().err
    assert "the option has no effect with --method int8" in said and "no folder is given" in said
    assert main(["compress", whole, "--method", "heads", "--remove", "2", "--to", str(to)]) == 2
    assert "must be a number from 0.001 to 0.999, found '2'" in capsys.readouterr().err
