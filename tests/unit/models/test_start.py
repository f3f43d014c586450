"""The weights with which a run begins: what is taken over, for every sharing strategy, and what is
refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mtlcli.config import Init, sharings
from mtlcli.config.section import replaced
from mtlcli.errors import UserError
from mtlcli.models.build import build_model, without_numbers
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.start import Start
from tests.small import SmallConfig, small_configs, small_data

NEW_TASKS = {
    *("adapters", "lora", "mtl_lora", "hydra_lora", "polytropon"),
    *("pal", "prefix", "prompt"),
}


def built(sharing: Any, names: list[str], seed: int, start: Start | None = None) -> MultiTaskModel:
    """A model of some of the small tasks; `start` with all heads that it has."""
    tasks, _, _, files = small_data()
    tasks = {name: tasks[name.removeprefix("my_")] for name in names}
    config: Any = SmallConfig(sharing)
    torch.manual_seed(seed)
    if start is not None:
        model = without_numbers(config, tasks, files, start)
        fitting = [name for name in model.heads if start.unfit(model, name) is None]
        config.init = Init(heads=fitting)
    return build_model(config, tasks, files, start=start)


def source(sharing: Any, names: list[str], model: MultiTaskModel | None = None) -> Start:
    """The weights of a run, moved away from their start, so that none has the number that it would
    have without them."""
    model = model or built(sharing, names, 1)
    torch.manual_seed(2)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor))
    configs = small_configs()
    tasks = {name: configs[name.removeprefix("my_")] for name in names}
    if isinstance(sharing, str):
        sharing = sharings.configs[sharing]()
    config: Any = SimpleNamespace(sharing=sharing, tasks=tasks, formed_tasks=tasks)
    return Start(config, {k: v.clone() for k, v in model.state_dict().items()}, "there")


@pytest.fixture(scope="module")
def plain() -> Start:
    return source("hard", ["cola", "stsb"])


@pytest.mark.parametrize("name", sorted(sharings.configs))
def test_every_strategy_begins_with_a_plain_backbone(plain: Start, name: str) -> None:
    """As with pretrained weights: every copy of a layer, and every embedding, is the other run's.
    The heads of tasks that both have are, too."""
    model = built(name, ["cola", "squad"], 3, plain)
    other = built(name, ["cola", "squad"], 4, plain)
    state, again = model.state_dict(), other.state_dict()
    ends = {key.rsplit("network.", 1)[-1]: tensor for key, tensor in plain.tensors.items()}
    taken = [key for key in state if key.rsplit("network.", 1)[-1] in ends and "network." in key]
    changed = [
        key for key in taken if not torch.equal(state[key], ends[key.rsplit("network.", 1)[-1]])
    ]
    # Experts are copies with noise.
    assert changed == []
    assert any("embeddings" in key for key in taken)
    # What differs between two seeds was drawn, so it is the strategy's own or a new head.
    drawn = {key for key in state if not torch.equal(state[key], again[key])}
    assert not drawn & set(taken)
    assert torch.equal(state["heads.cola.output.weight"], plain.tensors["heads.cola.output.weight"])
    assert any(key.startswith("heads.squad.") for key in drawn)
    assert not any(key.startswith("heads.cola.") for key in drawn)


@pytest.mark.parametrize("name", sorted(sharings.configs))
def test_every_strategy_begins_with_its_own(name: str) -> None:
    """The same tasks and options: all tensors are the other run's."""
    start = source(name, ["cola", "squad"])
    model = built(name, ["cola", "squad"], 3, start)
    assert [k for k, v in model.state_dict().items() if not torch.equal(v, start.tensors[k])] == []


@pytest.mark.parametrize("name", sorted(set(sharings.configs) - {"hard"}))
def test_other_tasks(name: str) -> None:
    """New tasks begin as new beside the shared parts, where the strategy can do that."""
    start = source(name, ["cola", "stsb"])
    if name not in NEW_TASKS:
        with pytest.raises(UserError, match=f"sharing={name} keeps parts for each task"):
            built(name, ["cola", "squad"], 3, start)
        return
    state = built(name, ["cola", "squad"], 3, start).state_dict()
    assert all(".squad." in key for key in state.keys() - start.tensors.keys())
    assert all(".stsb." in key for key in start.tensors.keys() - state.keys())
    both = state.keys() & start.tensors.keys()
    assert len(both) > len(state) / 2
    assert [key for key in both if not torch.equal(state[key], start.tensors[key])] == []


def test_one_task_without_sharing_is_plain() -> None:
    start = source("none", ["cola"])
    model = built("hard", ["cola", "stsb"], 3, start)
    mine = {
        key.removeprefix("trunk.backbone."): tensor for key, tensor in model.state_dict().items()
    }
    for key, tensor in start.tensors.items():
        if key.startswith("trunk."):
            assert torch.equal(mine[key.removeprefix("trunk.backbones.cola.")], tensor)


def refusal(sharing: Any, start: Start) -> str:
    with pytest.raises(UserError) as caught:
        built(sharing, ["cola"], 3, start)
    return str(caught.value)


def changed(start: Start, name: str, tensor: Tensor | None) -> Start:
    """The same weights with one other tensor, or without it."""
    tensors = dict(start.tensors)
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    return Start(start.config, tensors, start.where)


def test_refusals(plain: Start) -> None:
    assert "sharing=adapters has added to the backbone of that run" in refusal(
        "hard", source("adapters", ["cola"])
    )
    sized = sharings.configs["adapters"](size=8)
    assert "another shape" in (text := refusal(sized, source("adapters", ["cola"])))
    assert "size (64 there, 8 here)" in text
    norm = "trunk.backbone.network.embeddings.LayerNorm.weight"
    less = changed(plain, norm, None)
    assert "lacks network.embeddings.LayerNorm.weight" in refusal("hard", less)
    extra = changed(plain, f"{norm}.more", torch.ones(1))
    assert "which the model does not have" in refusal("hard", extra)
    assert "[3] float32 there and [32] float32 here" in refusal(
        "hard", changed(plain, norm, torch.ones(3))
    )
    assert "float64 there" in refusal(
        "hard", changed(plain, norm, torch.ones(32, dtype=torch.float64))
    )
    assert "is not finite" in refusal("hard", changed(plain, norm, torch.full((32,), torch.nan)))


def test_heads_that_do_not_fit(plain: Start) -> None:
    tasks, _, _, files = small_data()
    config: Any = SmallConfig("hard")
    model = without_numbers(config, tasks, files)
    assert [plain.unfit(model, name) for name in ("cola", "squad")] == [
        None,
        "the run has no task of this name",
    ]
    tasks["cola"].config = replaced(tasks["cola"].config, {"labels": ["yes", "no"]})
    assert "labels is ['no', 'yes'] there and ['yes', 'no'] here" in str(plain.unfit(model, "cola"))
    tasks["cola"].config = replaced(tasks["cola"].config, {"labels": ["no", "yes"]})
    wider = changed(plain, "heads.cola.output.weight", torch.ones(3, 32))
    assert "output.weight is [3, 32] float32 there" in str(wider.unfit(model, "cola"))
    config.init = Init(heads=["squad"])
    with pytest.raises(UserError, match="the head of task squad cannot be taken"):
        build_model(config, tasks, files, start=plain)
