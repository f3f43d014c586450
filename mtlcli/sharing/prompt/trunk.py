"""Multitask prompt tuning: one backbone that reads a soft prompt in front of each input. The prompt
is a learned matrix of all tasks, times a rank-one matrix of the task.

Wang et al. 2023, "Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning" (MPT);
soft prompts: Lester et al. 2021. With P (length x width) shared and u_t (length), v_t (width) of
task t, the states that stand for words in front of an input are

    P * (u_t v_t')    element by element

They go through the network as the states of words do: with the first positions (those of the input
move on by `length`), in the first segment, and seen by all tokens. No head reads them: pooled
vectors are made of the input alone, and the states of its tokens are where they were.

Differences from the paper and from peft's `MultitaskPromptTuningConfig`:
- The paper freezes the backbone (`frozen=true`). By default, it is trained here.
- P starts from the embeddings of random words (Lester et al.), u_t and v_t from 1, so that all
  tasks start with the same prompt. peft draws P from N(0, 1) and the others from N(0, 0.02^2).
- The paper distils P from prompts that are trained for each task first. Here P is learned from all
  tasks at once, and no task is adapted to afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.data.batches import Batch
from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.multitask import ParameterTable, Trunk
from mtlcli.models.per_task import PerTask
from mtlcli.sharing.parts.layers import Layer
from mtlcli.sharing.prompt import PromptSharing
from mtlcli.tasks.base import Encoded


@dataclass
class PromptPass(ForwardPass):
    """A pass that also holds the prompts of its tasks. The mask covers the prompts."""

    prompts: dict[str, Tensor]
    """(length, width) for each head."""


class Factors(nn.Module):
    """The vectors u_t and v_t of a task, at first 1."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.ones(length))
        self.columns = nn.Parameter(torch.ones(width))


class PromptedEmbedding(Layer):
    """An embedding of words that gives the first `length` tokens the states of the task's prompt,
    whatever their ids are."""

    def __init__(self, embedding: nn.Module, length: int) -> None:
        super().__init__(embedding)
        self.embedding, self.length = embedding, length

    def forward(self, ids: Tensor) -> Tensor:
        """Return (batch, tokens, width) for token ids (batch, tokens)."""
        passing = current(PromptPass)
        states: Tensor = self.embedding(ids[:, self.length :])

        def prompts(owner: str, states: Tensor) -> Tensor:
            return passing.prompts[owner].to(states.dtype).expand(states.shape[0], -1, -1)

        return torch.cat([passing.each(prompts, states), states], 1)


class Prompt(Trunk):
    """One backbone, frozen or not, with a prompt for each head."""

    unmergeable = "the task's prompt stands in front of each input"

    joint = True
    new_tasks = True

    def __init__(
        self, config: PromptSharing, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        """Raises UserError when the network's pooler cannot be given the input alone."""
        super().__init__(owners)
        self.config = config
        self.backbone = make_backbone()
        if config.frozen:
            self.backbone.requires_grad_(False)
        network: Any = self.backbone.network
        embedding = network.get_input_embeddings()
        rows = len(self.backbone.word_embeddings()[0].weight)
        with torch.no_grad():
            words = embedding(torch.randint(rows, (config.length,)))
        # Beside the network, so that the prompts count as no embeddings, which may be frozen.
        self.prompt = nn.Parameter(words.clone())
        self.own = PerTask({name: Factors(*words.shape) for name in self.heads})
        network.set_input_embeddings(PromptedEmbedding(embedding, config.length))
        if self.backbone.pooling == "pooler":
            if isinstance(network.pooler, nn.Linear):
                raise UserError(
                    f"the pooler of {network.config.model_type} reads the first state, which is "
                    "the prompt's",
                    where="model.pooling=pooler",
                    fix="choices: cls, mean, last",
                )
            network.pooler.register_forward_pre_hook(
                lambda _module, inputs: (inputs[0][:, config.length :], *inputs[1:])
            )

    def begin(self, task: str, batch: Batch) -> PromptPass:
        """Return the pass of a batch, with the prompts of its tasks."""
        parts = self.parts(task, batch)
        prompts = {}
        for owner in dict(parts):
            own: Any = self.own[owner]
            prompts[owner] = self.prompt * torch.outer(own.rows, own.columns)
        return PromptPass(parts, self._in_front(batch.attention_mask, True), prompts)

    def encode(self, task: str, batch: Batch) -> Encoded:
        """Return the encoding of the inputs alone."""
        segments = batch.token_type_ids
        longer = replace(
            batch,
            # Ids that are not the padding's: some networks count positions by it.
            input_ids=torch.cat(
                [batch.input_ids[:, :1].expand(-1, self.config.length), batch.input_ids], 1
            ),
            attention_mask=self._in_front(batch.attention_mask, True),
            token_type_ids=None if segments is None else self._in_front(segments, 0),
        )
        encoded: Encoded = self.backbone(longer, skip=self.config.length)
        return encoded

    def _in_front(self, tensor: Tensor, value: int) -> Tensor:
        """Return (batch, length + tokens) with a value for the prompt in front of (batch,
        tokens)."""
        return nn.functional.pad(tensor, (self.config.length, 0), value=value)

    def parameter_table(self) -> ParameterTable:
        """Return what each parameter is. The prompts have a learning rate of their own."""
        table = super().parameter_table()
        table.change([self.prompt, *self.own.parameters()], lr=self.config.lr)
        return table
