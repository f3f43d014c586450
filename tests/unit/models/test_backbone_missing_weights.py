"""Pretrained weights that lack what config.json describes, or have more."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mtlcli.config.run import Model
from mtlcli.errors import RunWarning, UserError
from mtlcli.models.backbone import Backbone, build_backbone
from mtlcli.models.find import find_backbone


def build(folder: Path, **options: str) -> tuple[Backbone, list[str]]:
    """The backbone of a folder, and what was warned of."""
    model = Model(kind="pretrained", name=str(folder), **options)  # type: ignore[arg-type]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        made = build_backbone(find_backbone(model, list), model)
    return made, [str(each.message) for each in heard if each.category is RunWarning]


def leave_out(folder: Path, condition: Callable[[str], bool]) -> None:
    file = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if not condition(name)}
    save_file(kept, file, {"format": "pt"})


@pytest.mark.parametrize(
    "model_folder",
    ["bert", "roberta", "deberta-v2", "modernbert", "t5", "bart", "gpt2", "llama"],
    indirect=True,
)
def test_complete_weights_are_loaded_without_a_message(
    model_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert build(model_folder)[1] == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("model_folder", ["bert", "t5", "gpt2"], indirect=True)
def test_a_whole_layer_that_is_missing_is_an_error(model_folder: Path) -> None:
    # The decoder of an encoder-decoder is not used.
    leave_out(model_folder, lambda name: ".1." in name and "decoder" not in name)
    with pytest.raises(
        UserError, match=r"the weights lack layer 1, which config.json has \(layers 0 to 1\)"
    ):
        build(model_folder)


@pytest.mark.parametrize("model_folder", ["bert"], indirect=True)
def test_missing_parts_of_bert_are_reported(
    model_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # The pooler: the model is read without it, as one that was trained for masked words alone.
    leave_out(model_folder, lambda name: "pooler" in name)
    backbone, heard = build(model_folder)
    assert heard == [] and backbone.pooling == "cls"
    _, heard = build(model_folder, pooling="pooler")
    lack = (
        f"model.name={model_folder}: the weights lack {{}} tensors of the model, which begin at "
        f"random: {{}}"
    )
    assert heard == [lack.format("2 of 39", "pooler.dense.bias, pooler.dense.weight")]
    leave_out(model_folder, lambda name: name == "encoder.layer.1.output.dense.weight")
    _, heard = build(model_folder)
    assert heard == [lack.format("1 of 37", "encoder.layer.1.output.dense.weight")]
    assert capfd.readouterr().err == "", "the library's own report is left out"
    leave_out(model_folder, lambda name: "word_embeddings" in name)
    with pytest.raises(UserError, match=r"the weights lack embeddings\.word_embeddings\.weight"):
        build(model_folder)


@pytest.mark.parametrize("model_folder", ["bert"], indirect=True)
def test_layers_beyond_the_configuration_are_reported(model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    _, heard = build(model_folder)
    assert heard == [
        f"model.name={model_folder}: the weights have layers that config.json leaves out (1); the "
        "model has layers 0 to 0"
    ]
