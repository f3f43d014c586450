"""Backbones of every family: loaded as the library loads them, pooled as fits them, indifferent to
padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AlbertConfig, AutoModel

from mtlcli.config.run import Model
from mtlcli.config.section import replaced
from mtlcli.data.batches import InputFormat, collate
from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone, build_backbone
from mtlcli.models.files import BackboneFiles
from mtlcli.models.find import find_backbone, locate
from tests.families import TEXTS, family_config

POOLING = {
    "bert": "pooler",
    "roberta": "pooler",
    "deberta-v2": "cls",
    "modernbert": "cls",
    "t5": "mean",
    "bart": "mean",
    "gpt2": "last",
    "llama": "last",
}


@pytest.mark.parametrize("model_folder", list(POOLING), indirect=True)
def test_any_family_loads_pools_and_ignores_padding(
    model_folder: Path, request: pytest.FixtureRequest
) -> None:
    family = request.node.callspec.params["model_folder"]
    model = Model(kind="pretrained", name=str(model_folder))
    files = find_backbone(model, list)
    backbone = build_backbone(files, model).eval()
    assert backbone.pooling == POOLING[family]
    assert backbone.hidden == 32
    encoder = files.encoder()
    features = encoder.encode(TEXTS, TEXTS[::-1], 64)

    def run(indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = collate(
            features,
            np.array(indices),
            input_format=InputFormat(encoder.pad_id, encoder.uses_segments),
            denominator=1.0,
        )
        with torch.no_grad():
            encoded = backbone(batch)
        assert encoded.hidden.shape == (*batch.input_ids.shape, 32) and encoded.pooled.shape == (
            len(indices),
            32,
        )
        return encoded.pooled, encoded.hidden[encoded.mask]

    together, _ = run(list(range(len(TEXTS))))
    assert len(set(features.lengths.tolist())) > 1, (
        "the texts must differ in length for the padding to matter"
    )
    for index in range(len(TEXTS)):
        alone, states = run([index])
        torch.testing.assert_close(together[index], alone[0], atol=2e-5, rtol=1e-4)
        assert len(states) == features.lengths[index]


@pytest.mark.parametrize("model_folder", list(POOLING), indirect=True)
def test_a_run_folder_rebuilds_the_backbone_without_the_weights_source(
    model_folder: Path, tmp_path: Path
) -> None:
    model = Model(kind="pretrained", name=str(model_folder))
    files = find_backbone(model, list)
    backbone = build_backbone(files, model).eval()
    model = replaced(model, {"pooling": backbone.pooling})
    files.save(tmp_path / "backbone")
    again = build_backbone(
        BackboneFiles.load(tmp_path / "backbone"), model, load_weights=False
    ).eval()
    again.load_state_dict(backbone.state_dict())
    assert (
        files.encoder().fingerprint
        == BackboneFiles.load(tmp_path / "backbone").encoder().fingerprint
    )
    features = files.encoder().encode(TEXTS, None, 64)
    batch = collate(
        features, np.arange(3), input_format=InputFormat(0, files.uses_segments), denominator=1.0
    )
    with torch.no_grad():
        assert torch.equal(backbone(batch).pooled, again(batch).pooled)


@pytest.mark.parametrize("model_folder", ["bert"], indirect=True)
def test_states_are_those_of_the_library(model_folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    model = Model(kind="pretrained", name=str(model_folder))
    files = find_backbone(model, list)
    backbone = build_backbone(files, model).eval()
    inputs = AutoTokenizer.from_pretrained(model_folder)(
        TEXTS, TEXTS[::-1], padding=True, return_tensors="pt", return_token_type_ids=True
    )
    library = AutoModel.from_pretrained(model_folder).eval()
    features = files.encoder().encode(TEXTS, TEXTS[::-1], 64)
    batch = collate(
        features, np.arange(len(TEXTS)), input_format=InputFormat(0, True), denominator=1.0
    )
    assert torch.equal(batch.input_ids, inputs["input_ids"]) and torch.equal(
        batch.token_type_ids, inputs["token_type_ids"]
    )
    with torch.no_grad():
        torch.testing.assert_close(backbone(batch).pooled, library(**inputs).pooler_output)


@pytest.mark.parametrize("model_folder", ["bert"], indirect=True)
def test_dropout_reaches_the_network(model_folder: Path) -> None:
    model = Model(kind="pretrained", name=str(model_folder), dropout=0.37)
    backbone = build_backbone(find_backbone(model, list), model)
    assert {m.p for m in backbone.modules() if isinstance(m, torch.nn.Dropout)} == {0.37}


@pytest.mark.parametrize("model_folder", ["bert"], indirect=True)
@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_other_poolings_leave_no_parameter_unused(model_folder: Path, pooling: str) -> None:
    model = Model(kind="pretrained", name=str(model_folder), pooling=pooling)  # type: ignore[arg-type]
    backbone = build_backbone(find_backbone(model, list), model)
    features = find_backbone(model, list).encoder().encode(TEXTS, None, 64)
    backbone(
        collate(features, np.arange(5), input_format=InputFormat(0, True), denominator=1.0)
    ).pooled.sum().backward()
    # A sum over a layer-normalised vector has no gradient through the norm's input in theory; None
    # would mean "unused".
    assert all(p.grad is not None for p in backbone.parameters())


def test_from_scratch_has_the_shape_that_was_asked_for() -> None:
    model = Model(
        kind="scratch", name=None, layers=3, hidden=48, heads=6, vocabulary=150, dropout=0.2
    )
    files = find_backbone(model, lambda: TEXTS * 3)
    backbone = build_backbone(files, model)
    assert (
        backbone.hidden == 48
        and backbone.network.config.num_hidden_layers == 3
        and backbone.pooling == "cls"
    )
    assert backbone.network.config.vocab_size == files.encoder().vocabulary_size <= 150
    assert backbone.dropout == 0.2


def test_a_hub_that_does_not_answer_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client would try five times for every file, with a line each time."""
    monkeypatch.setattr("mtlcli.data.hub.hub_answers", lambda: False)
    monkeypatch.setattr("huggingface_hub.file_download.get_hf_file_metadata", None)
    with pytest.raises(UserError) as caught:
        find_backbone(Model(kind="pretrained", name="me/nosuch"), list)
    assert caught.value.problems[0].what == (
        f"the model cannot be loaded: there is no folder 'me/nosuch' in {Path.cwd()}, "
        "https://huggingface.co does not answer, and the model is not in its cache"
    )


def test_a_model_that_is_not_available_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        find_backbone(Model(kind="pretrained", name=str(tmp_path)), list)
    with pytest.raises(UserError, match="there is no folder '/no/such/model'"):
        find_backbone(Model(kind="pretrained", name="/no/such/model"), list)
    with pytest.raises(UserError, match="the package no_such_package is not installed"):
        locate("package:no_such_package/model")
    with pytest.raises(UserError, match="not a multiple"):
        find_backbone(Model(kind="scratch", name=None, hidden=30, heads=4), lambda: TEXTS)


@pytest.mark.parametrize(
    ("family", "layers", "above"),
    [
        ("bert", "encoder.layer", []),
        ("deberta-v2", "encoder.layer", []),
        ("modernbert", "layers", ["final_norm"]),
        ("t5", "block", ["final_layer_norm"]),
        ("bart", "layers", []),
        ("gpt2", "h", ["ln_f"]),
    ],
)
def test_depths_follow_from_the_place_in_the_network(
    family: str, layers: str, above: list[str]
) -> None:
    network = AutoModel.from_config(family_config(family, 400))
    network = network.get_encoder() if network.config.is_encoder_decoder else network
    depths = Backbone(network, "mean").depths()
    places = {f"{layers}.0": 2, f"{layers}.1": 1} | dict.fromkeys(above, 0)
    expected = {
        name: next((depth for place, depth in places.items() if name.startswith(f"{place}.")), 3)
        for name, _ in network.named_parameters()
    }
    assert {name: depths[each] for name, each in network.named_parameters()} == expected
    assert set(expected.values()) == {1, 2, 3, *places.values()}


def test_layers_that_share_their_weights_have_the_depth_of_the_first() -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "embedding_size": 4, "vocab_size": 9}
    network = AutoModel.from_config(AlbertConfig(**sizes, num_hidden_layers=3))
    depths = Backbone(network, "cls").depths()
    found = {name.split(".")[1]: depths[each] for name, each in network.named_parameters()}
    assert found["albert_layer_groups"] == 3 and found["word_embeddings"] == 4
