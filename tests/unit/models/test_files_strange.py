"""Model folders with values that no published model has: one message before a run, never a
traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mtlcli.config.run import Model
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.errors import UserError
from mtlcli.models.backbone import build_backbone
from mtlcli.models.find import find_backbone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text.json").write_text(
        build_tokenizer(["a few words to learn from"] * 5, 100), encoding="utf-8"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "text.json"), pad_token="[PAD]", sep_token="[SEP]"
    )
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    place = tmp_path / "model"
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ({"hidden_size": "8"}, "the model cannot be loaded: .*hidden_size"),
        ({"dtype": "os.system"}, "the model cannot be loaded: "),
        ({"model_type": ["bert"]}, "the model cannot be loaded: "),
        (
            {"num_attention_heads": 0},
            "config.json cannot be used: num_attention_heads is 0, and every model has 1 or more",
        ),
        ({"num_attention_heads": -2}, "num_attention_heads is -2, and"),
        ({"num_attention_heads": 3}, "not a multiple of the number of attention heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, and"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1, and"),
        ({"hidden_act": "os.system"}, "cannot be built: KeyError"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "the weights are quantised"),
    ],
)
def test_strange_values_in_config_json(folder: Path, field: dict[str, Any], what: str) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | field))
    with pytest.raises(UserError, match=what) as caught:
        find_backbone(Model(kind="pretrained", name=str(folder)), list)
    assert caught.value.problems[0].where == f"model.name={folder}" and caught.value.problems[0].fix


def test_weights_of_another_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("query.weight"))
    save_file(
        weights | {name: weights[name][:-1].clone()}, folder / "model.safetensors", {"format": "pt"}
    )
    model = Model(kind="pretrained", name=str(folder))
    with pytest.raises(UserError, match="the weights do not fit config.json"):
        build_backbone(find_backbone(model, list), model)


def test_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="the model cannot be loaded: "):
        find_backbone(Model(kind="pretrained", name=str(folder)), list)
