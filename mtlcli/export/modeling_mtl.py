"""A model that `mtl export` wrote, for the transformers library: a network, a pooled vector, dense
tanh layers and an output layer. This file is a part of the exported folder, which is loaded with
`trust_remote_code=True`.

Where the network is one of the library's, nothing but torch and transformers is needed. Where tasks
share parameters in a way that the library has no network for, it is built by the package mtlcli,
which has to be installed (`config.trunk`).
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)


class MtlConfig(PreTrainedConfig):
    """The configuration of an exported model."""

    model_type = "mtl"

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        pooling: str = "cls",
        head_layers: int = 1,
        head_dropout: float = 0.0,
        trunk: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """`backbone`: the configuration of the network, with `model_type`. `pooling`: `cls`, the
        state of the first token; `mean`; `last`, that of the last token; `pooler`, what the network
        gives. `head_layers`: dense tanh layers before the output layer. `trunk`: what mtlcli needs
        to build the network, where the library has none."""
        self.backbone, self.pooling, self.trunk = backbone or {}, pooling, trunk
        self.head_layers, self.head_dropout = head_layers, head_dropout
        super().__init__(**more)


def _network(config: MtlConfig) -> PreTrainedModel:
    """Return a network of the library with the architecture that the configuration names: the
    encoder of an encoder-decoder."""
    fields = dict(config.backbone)
    architecture = AutoConfig.for_model(fields.pop("model_type"), **fields)
    network = AutoModel.from_config(architecture, dtype=torch.float32)
    if architecture.is_encoder_decoder:
        network = network.get_encoder()
    if config.pooling != "pooler" and getattr(network, "pooler", None) is not None:
        network.pooler = None
    return network


def _trunk(config: MtlConfig) -> nn.Module:
    """Return the network that mtlcli builds. Raises ImportError where it is not installed."""
    trunk: Any = config.trunk
    try:
        module = importlib.import_module("mtlcli.export.trunk")
    except ImportError as error:
        raise ImportError(
            "this model needs the package mtlcli: tasks share its parameters in a way "
            f"(sharing={trunk['sharing']['name']}) that the transformers library has no "
            "network for"
        ) from error
    return module.build(trunk, config.backbone, config.pooling)


class MtlModel(PreTrainedModel):
    """The network and the head."""

    config_class = MtlConfig
    base_model_prefix = "network"
    supports_gradient_checkpointing = False
    _supports_sdpa = True

    def __init__(self, config: MtlConfig) -> None:
        super().__init__(config)
        network: Any = _network(config) if config.trunk is None else _trunk(config)
        self.network = network
        hidden: int = (
            network.config.get_text_config().hidden_size if config.trunk is None else network.hidden
        )
        layers: list[nn.Module] = [nn.Dropout(config.head_dropout)]
        for _ in range(config.head_layers):
            layers += [nn.Linear(hidden, hidden), nn.Tanh(), nn.Dropout(config.head_dropout)]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(hidden, self.outputs_of(config))
        self.post_init()

    def outputs_of(self, config: MtlConfig) -> int:
        """Return the number of outputs."""
        outputs: Any = config.num_labels
        return outputs

    def states(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return token states (batch, length, hidden) and pooled vectors (batch, hidden)."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if self.config.trunk is not None:
            return self.network(input_ids, attention_mask, token_type_ids)
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output = self.network(input_ids=input_ids, attention_mask=attention_mask, **segments)
        hidden = output.last_hidden_state
        if self.config.pooling == "pooler":
            return hidden, output.pooler_output
        if self.config.pooling == "cls":
            return hidden, hidden[:, 0]
        if self.config.pooling == "mean":
            members = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return hidden, (hidden * members).sum(1) / members.sum(1)
        inputs = torch.arange(hidden.shape[0], device=hidden.device)
        return hidden, hidden[inputs, attention_mask.long().sum(1) - 1]


class MtlForSequenceClassification(MtlModel):
    """One vector of outputs for a text or a pair of texts."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Return logits (batch, labels), and the mean loss if there are labels."""
        _hidden, pooled = self.states(input_ids, attention_mask, token_type_ids)
        logits = self.output(self.layers(pooled))
        loss = None
        if labels is not None:
            if self.config.problem_type == "regression":
                loss = nn.functional.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
            elif self.config.problem_type == "multi_label_classification":
                loss = nn.functional.binary_cross_entropy_with_logits(
                    logits, labels.to(logits.dtype)
                )
            else:
                loss = nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class MtlForTokenClassification(MtlModel):
    """One vector of outputs for each token."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> TokenClassifierOutput:
        """Return logits (batch, length, labels), and the mean loss if there are labels (batch,
        length), -100 where there is none."""
        hidden, _pooled = self.states(input_ids, attention_mask, token_type_ids)
        logits = self.output(self.layers(hidden))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return TokenClassifierOutput(loss=loss, logits=logits)


class MtlForQuestionAnswering(MtlModel):
    """A start and an end score for each token."""

    def outputs_of(self, config: MtlConfig) -> int:
        """Return the number of outputs."""
        return 2

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **_: Any,
    ) -> QuestionAnsweringModelOutput:
        """Return start and end logits (batch, length), and the mean loss if there are positions
        (batch,)."""
        hidden, _pooled = self.states(input_ids, attention_mask, token_type_ids)
        start, end = self.output(self.layers(hidden)).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (
                nn.functional.cross_entropy(start, start_positions)
                + nn.functional.cross_entropy(end, end_positions)
            ) / 2
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end)


class MtlForMultipleChoice(MtlModel):
    """A score for each of several choices."""

    def outputs_of(self, config: MtlConfig) -> int:
        """Return the number of outputs."""
        return 1

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> MultipleChoiceModelOutput:
        """Return logits (batch, choices) for token ids (batch, choices, length), and the mean loss
        if there are labels (batch,)."""
        _hidden, pooled = self.states(
            input_ids.flatten(0, 1),
            None if attention_mask is None else attention_mask.flatten(0, 1),
            None if token_type_ids is None else token_type_ids.flatten(0, 1),
        )
        logits = self.output(self.layers(pooled)).view(input_ids.shape[:2])
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return MultipleChoiceModelOutput(loss=loss, logits=logits)
