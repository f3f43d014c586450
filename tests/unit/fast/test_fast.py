"""The one door: what it leaves alone. That it changes no more than rounding is shown by
test_first_token.py for one step of every strategy, and by tests/runs/test_plain_path.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from mtlcli.config import Runner, weightings
from mtlcli.config.section import replaced
from mtlcli.fast import accelerate, embeddings
from mtlcli.fast.attention import PLAIN
from mtlcli.fast.dropout import CheapDropout
from mtlcli.fast.first_token import FirstToken
from mtlcli.models.multitask import MultiTaskModel
from tests.small import SmallConfig, small_model
from tests.unit.fast.test_attention import configs


def with_dropout(
    *, device: str = "cpu", weighting: str = "static", **values: Any
) -> MultiTaskModel:
    """A model whose backbone has dropout. `values`: of `runner.fast` and `model.attention`."""
    model, _ = small_model("hard", fast=False)
    model.trunk.backbone.network.config.attention_probs_dropout_prob = 0.1
    config: Any = SmallConfig("hard")
    config.runner = Runner(fast=values.get("fast", "auto"))
    config.model = replaced(config.model, {"attention": values.get("attention", "auto")})
    config.weighting = weightings.configs[weighting]()
    accelerate(model, config, torch.device(device), "fp32")
    return model.train()


def kinds(model: MultiTaskModel) -> set[str]:
    """What has been done to a model."""
    found = {"sparse" for part in model.modules() if getattr(part, "sparse", False)}
    found |= {"dropout" for part in model.modules() if isinstance(part, CheapDropout)}
    return found | {"first token" for part in model.modules() if isinstance(part, FirstToken)}


def test_nothing_is_done_where_it_is_off() -> None:
    plain, fast = with_dropout(fast="off"), with_dropout()
    assert (kinds(plain), configs(plain)) == (set(), {"sdpa"})
    assert (kinds(fast), configs(fast)) == ({"sparse", "dropout", "first token"}, {PLAIN})
    assert list(fast.state_dict()) == list(plain.state_dict())


def test_what_adds_launches_is_left_out_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is registered with the library is taken back after the test.
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "sdpa", sdpa_mask)
    assert kinds(with_dropout(device="cuda")) == set()
    assert kinds(with_dropout(device="cuda", weighting="pcgrad")) == set()
    monkeypatch.setattr(embeddings, "LARGE", 0)
    assert kinds(with_dropout(device="cuda", weighting="pcgrad")) == {"sparse"}
    assert kinds(with_dropout(device="cuda")) == set()


def test_an_attention_that_the_config_names_stays() -> None:
    assert configs(with_dropout(attention="sdpa")) == {"sdpa"}
