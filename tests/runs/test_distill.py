"""A run that learns from other runs (`augmentation=distill`), with some of their layers
(`init.layers`): what it takes and keeps, that it goes on without them, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtlcli.augmentation.distill import Distill
from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.config.snapshot import load_config
from mtlcli.errors import UserError
from mtlcli.evaluation.saved_run import evaluate_path
from tests.small_run import cut_off, differences, resume, start

SHORT = ("runner.steps=8", "runner.eval_every=8", "runner.save_every=4")
DISTILL = "augmentation=distill"


def of(*teachers: Path) -> str:
    return f"augmentation.teachers=[{','.join(map(str, teachers))}]"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three layers on cola and stsb, one on rte, and a student of both."""
    place = tmp_path_factory.mktemp("distill")
    start(place / "two", *SHORT, "model.layers=3", "task=[cola,stsb]")
    start(place / "rte", *SHORT, "task=rte", "model.hidden=32")
    start(place / "student", *SHORT, DISTILL, of(place / "two", place / "rte"))
    return place


def test_what_the_run_keeps_of_its_teachers(place: Path) -> None:
    student = place / "student"
    outputs = load_file(student / "teachers.safetensors")
    assert {name: list(each.shape) for name, each in outputs.items()} == {
        "outputs.cola": [20, 2],
        "outputs.stsb": [20, 1],
        "outputs.rte": [20, 2],
        **{f"rows.{name}": [20] for name in ("cola", "stsb", "rte")},
    }
    found = json.loads((student / "results.json").read_text())
    for name, run in (("cola", "two"), ("stsb", "two"), ("rte", "rte")):
        theirs = json.loads((place / run / "results.json").read_text())
        each = found["teachers"]["tasks"][name]
        assert each["run"] == str(place / run)
        assert each["parameters"] == theirs["parameters"]["total"]
        assert each["score"] == pytest.approx(theirs["tasks"][name]["main"], abs=1e-6)
        assert each["student"] == found["tasks"][name]["main"]
    shown = (student / "log.txt").read_text()
    assert f"teachers  {place / 'two'} (cola, stsb)" in shown
    assert "this run has" in shown


def test_the_teacher_is_asked_about_the_rows_in_order(place: Path, tmp_path: Path) -> None:
    """Its predictions for the train split, by `mtl eval`, are those of the outputs."""
    limit = ["data.max_train_rows=20"]
    evaluate_path(
        place / "rte", split="train", overrides=limit, predictions=tmp_path / "predictions"
    )
    lines = (tmp_path / "predictions/rte.jsonl").read_text().splitlines()
    said = [list(json.loads(line)["probabilities"].values()) for line in lines]
    outputs = load_file(place / "student/teachers.safetensors")["outputs.rte"].softmax(1)
    torch.testing.assert_close(outputs, torch.tensor(said), atol=1e-5, rtol=1e-4)


def test_it_goes_on_to_the_bit_without_its_teachers(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = place / "student"
    part = cut_off(whole, "step_00000004", tmp_path / "part")
    shares: list[float] = []

    def begin_step(self: Distill, step: int, steps: int) -> None:
        annealed(self, step, steps)
        shares.append(self.gold)

    annealed = Distill.begin_step
    monkeypatch.setattr(Distill, "begin_step", begin_step)
    for name in ("two", "rte"):
        (place / name).rename(place / f"{name}_gone")
    try:
        again = resume(cut_off(whole, "step_00000004", tmp_path / "again"))
    finally:
        for name in ("two", "rte"):
            (place / f"{name}_gone").rename(place / name)
    assert differences(whole, again, 8) == []
    assert shares == [step / 7 for step in range(4, 8)]

    with pytest.raises(UserError, match=r"augmentation.teachers: .* cannot be changed"):
        resume(whole, of(place / "two"))
    other = ("data.max_train_rows=21", "allow=[data.max_train_rows]")
    with pytest.raises(UserError, match="was asked about other train rows"):
        resume(part, *other)
    with (part / "teachers.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(UserError, match="the outputs of the teachers have changed"):
        resume(part)
    (part / "teachers.safetensors").unlink()
    with pytest.raises(UserError, match="the outputs of the teachers are missing"):
        resume(part)


def test_half_of_the_layers_are_taken(place: Path, tmp_path: Path) -> None:
    still = ("runner.steps=1", "runner.eval_every=1", "optim.lr=1e-50", "optim.warmup=0")
    options = ("task=[cola,stsb]", f"init.from={place / 'two'}", "init.layers=[0,2]", *still)
    options += ("model.layers=2",)
    run = start(tmp_path / "run", *options, DISTILL, of(place / "two"))
    assert load_config(run / "config.yaml").model.layers == 2
    before = load_file(place / "two/checkpoints/step_00000008/model.safetensors")
    after = load_file(run / "checkpoints/step_00000001/model.safetensors")
    layer = "trunk.backbone.network.encoder.layer."
    named = {key: key.replace(f"{layer}1.", f"{layer}2.") for key in after}
    assert all(torch.equal(after[mine], before[theirs]) for mine, theirs in named.items())
    assert before.keys() - named.values() == {key for key in before if f"{layer}1." in key}
    assert "the layers 0, 2" in (run / "log.txt").read_text()
    scored = evaluate_path(run)["tasks"]["cola"]["main"]
    assert scored == json.loads((run / "results.json").read_text())["tasks"]["cola"]["main"]


def test_refusals(place: Path, tmp_path: Path) -> None:
    def refused(*options: str) -> str:
        with pytest.raises(UserError) as caught:
            start(tmp_path / "run", *SHORT, *options)
        assert not (tmp_path / "run").exists()
        return "\n".join(str(problem) for problem in caught.value.problems)

    two, rte = place / "two", place / "rte"
    text = refused(DISTILL, of(two))
    assert "augmentation.teachers: no teacher has the task 'rte'" in text
    assert "name the others, 'augmentation.tasks=[cola, stsb]'" in text
    text = refused(DISTILL, of(two, place / "student", rte), "augmentation.tasks=[cola,stsb]")
    assert f"{two} and {place / 'student'} both have the task 'cola'" in text
    assert f"{rte} teaches nothing: it has the tasks rte" in text
    swapped = "tasks.rte.columns={text: sentence2, text_pair: sentence1}"
    assert "cannot teach rte: it reads text=sentence1, text_pair=sentence2" in refused(
        "task=rte", swapped, DISTILL, of(rte)
    )
    damaged = shutil.copytree(rte, tmp_path / "damaged")
    with (damaged / "checkpoints/step_00000008/model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert "does not match its SHA-256" in refused(
        "task=rte", DISTILL, of(damaged / "checkpoints/step_00000008")
    )
    for layers in ("[0,3]", "[1,0]", "[1,1]"):
        text = refused(f"init.from={two}", f"init.layers={layers}")
        assert "the run of init.from has the layers 0 to 2" in text
    with pytest.raises(UserError, match="needs a run to learn from"):
        preflight(read_arguments(["task=rte", DISTILL]))
    with pytest.raises(UserError, match="there is no folder"):
        preflight(read_arguments(["task=rte", DISTILL, of(tmp_path / "none")]))
    with pytest.raises(UserError, match=r"init.layers: has no effect: init.from is null"):
        preflight(read_arguments(["task=rte", "init.layers=[0]"]))
