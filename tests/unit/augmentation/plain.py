"""What the tests of augmentations share: a small model, a batch, and the model by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtlcli.config import augmentations
from mtlcli.data.batches import Batch, InputFormat, collate
from mtlcli.models.multitask import MultiTaskModel
from tests.small import small_data, small_model

FORMAT = InputFormat(pad_id=0, uses_segments=True)


def augmented(name: str, dropout: float = 0.0, **options: Any) -> MultiTaskModel:
    """A model in training, with an augmentation and dropout in embeddings, layers and heads."""
    model, _ = small_model("hard", fast=False)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    config = augmentations.configs[name](**options)
    model.augmentation = augmentations.implementation(name)(config)
    return model.train()


def batch_of(task: str, count: int = 6) -> Batch:
    """The first rows of a task, in a step with more of them, whose classes have weights."""
    _, _, features, _ = small_data()
    rows = np.arange(count)
    return collate(
        features[task], rows, input_format=FORMAT, denominator=2.0 * count, examples=3.0 * count
    )


def logits_of(
    model: MultiTaskModel, task: str, batch: Batch, embedded: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs of the head (batch, outputs), and pooled vectors, by the library's own network.
    `embedded`: word embeddings to take instead of those of the batch."""
    backbone: Any = model.trunk.backbone
    if embedded is None:
        embedded = backbone.network.get_input_embeddings()(batch.input_ids)
    found = backbone.network(
        inputs_embeds=embedded,
        attention_mask=batch.attention_mask.long(),
        token_type_ids=batch.token_type_ids,
    )
    pooled = found.last_hidden_state[:, 0]
    head: Any = model.heads[task]
    return head.output(head.layers(pooled)), pooled


def gradients(model: MultiTaskModel, loss: Tensor) -> dict[str, Tensor]:
    """The gradients of a loss, by parameter."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: each for name, each in zip(names, found, strict=True) if each is not None}


def assert_alike(model: MultiTaskModel, loss: Tensor, expected: Tensor) -> None:
    """The same loss and the same gradients."""
    torch.testing.assert_close(loss, expected)
    ours, theirs = gradients(model, loss), gradients(model, expected)
    assert ours.keys() == theirs.keys()
    assert any(each.abs().max() > 0 for each in ours.values())
    for name, each in ours.items():
        torch.testing.assert_close(each, theirs[name], msg=name)


def losses_of(task: str, logits: Tensor, batch: Batch) -> Tensor:
    """The plain loss of each row (batch,)."""
    if task == "cola":
        return nn.functional.cross_entropy(logits, batch.columns["label"], reduction="none")
    return (logits[:, 0] - batch.columns["score"].float()) ** 2


def apart(task: str, one: Tensor, other: Tensor) -> Tensor:
    """KL(P || Q) + KL(Q || P) by torch's own, or the squared difference, summed over rows."""
    if task == "stsb":
        return ((one - other) ** 2).sum()
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    kl = nn.functional.kl_div
    return kl(q, p.exp(), reduction="sum") + kl(p, q.exp(), reduction="sum")


class Earlier:
    """stsb was learned before cola; every row is a batch of its own, as in a run."""

    names = ("stsb",)
    new = "cola"

    def __init__(self, model: Any) -> None:
        self._model = model

    def rows(self, task: str, count: int) -> Iterator[Batch]:
        _, _, features, _ = small_data()
        for row in range(count):
            yield collate(
                features[task], np.array([row]), input_format=FORMAT, denominator=1.0, examples=1.0
            )

    def outputs(self, task: str) -> Tensor:
        with torch.no_grad():
            return logits_of(self._model, task, batch_of("cola", 16))[0]


def kept(name: str, **options: Any) -> Any:
    """A model that keeps stsb while it learns cola, after a change of its weights."""
    model: Any = augmented(name, **options)
    model.eval()
    earlier: Any = Earlier(model)
    found = model.augmentation.look(model, earlier)
    model.augmentation.keep(found, earlier, torch.device("cpu"))
    model.train()
    return model


def moved(model: Any) -> dict[str, Tensor]:
    """Change the weights; return those before."""
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    torch.manual_seed(5)
    with torch.no_grad():
        for each in model.parameters():
            each += 0.05 * torch.randn_like(each)
    return before
