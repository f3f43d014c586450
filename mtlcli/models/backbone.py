"""The backbone: any transformers encoder, the encoder half of an encoder-decoder, or a decoder-only
model, with pooling."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, logging
from transformers.utils.hub import cached_file
from transformers.utils.logging import disable_progress_bar

from mtlcli.config.run import Model
from mtlcli.data.batches import Batch
from mtlcli.data.pack import Layout, PackedBatch
from mtlcli.errors import RunWarning, UserError, count_of
from mtlcli.models.files import BackboneFiles, is_causal, own_architecture
from mtlcli.models.find import WORD_EMBEDDINGS, from_here, locate
from mtlcli.models.forward_pass import checkpoint_contexts
from mtlcli.models.pruned import FIELD, heads_left, prune
from mtlcli.tasks.base import Encoded
from mtlcli.tasks.decoder import DecoderHead

SHOWN = 6
"""Number of names that a message about missing weights shows."""


def layer_of(parameter: str) -> int | None:
    """Return the number, from 0, of the layer that a tensor in a file of weights belongs to; None
    for embeddings, final norms and poolers.

    Every encoder of the transformers library keeps its layers in one list, whose index is the first
    number in the name.
    """
    return next((int(part) for part in parameter.split(".") if part.isdigit()), None)


def _numbered(module: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    """Yield the entries of a network's lists of modules with their numbers: its layers. In ALBERT,
    they are groups of layers that share their weights."""
    for child in module.children():
        yield from enumerate(child) if isinstance(child, nn.ModuleList) else _numbered(child)


class LanguageHead(nn.Module):
    """The output layer of a language model: the scores of all tokens of the vocabulary for the
    token that follows. It is computed in fp32 even under autocast."""

    def __init__(self, output: nn.Linear, *, tied: bool) -> None:
        """`output`: the language model's own output layer. `tied`: whether its weights are the
        word embeddings, which are then not kept here."""
        super().__init__()
        self.tied = tied
        self.weight = None if tied else output.weight
        self.bias = output.bias

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """Return scores (..., vocabulary) in fp32 for token states (..., hidden). `embeddings`: the
        word embeddings (vocabulary, hidden), which are read if they are tied."""
        weight = embeddings if self.weight is None else self.weight
        with torch.autocast(states.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return nn.functional.linear(states.float(), weight.float(), bias)


class Backbone(nn.Module):
    """A transformers network, the pooling that makes one vector of its token states and, where it
    has to answer in text, its language head."""

    def __init__(
        self, network: PreTrainedModel, pooling: str, language_head: LanguageHead | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling
        self.language_head = language_head
        self.decoder: DecoderHead | None = None
        """The decoder of an encoder-decoder, where the backbone has to answer in text."""
        self._kinds_of_layer = tuple(
            {type(layer) for _, layer in _numbered(network)} - {nn.ModuleList}
        )
        if pooling != "pooler" and getattr(network, "pooler", None) is not None:
            # A pooler that nobody reads would be a set of parameters without gradient.
            network.pooler = None  # type: ignore[assignment]

    @property
    def hidden(self) -> int:
        """Width of the token states."""
        return int(self.network.config.get_text_config().hidden_size)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return int(self.network.config.get_text_config().num_hidden_layers)

    def freeze(self, layers: int) -> None:
        """Freeze the embeddings and the lowest `layers` layers. Raises UserError when the backbone
        has fewer layers."""
        if layers > self.depth:
            what = f"the backbone has {count_of(self.depth, 'layer')}"
            raise UserError(
                what, where="model.frozen_layers", fix=f"type {self.depth} or less, or null"
            )
        for parameter, depth in self.depths().items():
            if depth > self.depth - layers:
                parameter.requires_grad = False

    def depths(self) -> dict[nn.Parameter, int]:
        """Return how far each parameter of the network lies below its output: 0 above the layers
        (final norms, poolers), 1 in the last layer, `depth` in the first, `depth` + 1 in the
        embeddings. What a strategy has put into a layer lies where the layer does."""
        depths = dict.fromkeys(self.parameters(), 0) | {
            parameter: self.depth + 1 if _of_embeddings(name) else 0
            for name, parameter in self.network.named_parameters()
        }
        for number, layer in _numbered(self.network):
            depths.update(dict.fromkeys(layer.parameters(), self.depth - number))
        return depths

    def layers(self) -> list[nn.Module]:
        """Return the layers of the network as the library has built them, and all copies of them,
        wherever a strategy has put them."""
        return [
            module for module in self.network.modules() if isinstance(module, self._kinds_of_layer)
        ]

    def word_embeddings(self) -> list[nn.Embedding]:
        """Return the table of word embeddings, around which a strategy may have put a module."""
        inside = self.network.get_input_embeddings().modules()
        return [module for module in inside if isinstance(module, nn.Embedding)]

    @property
    def causal(self) -> bool:
        """Whether a token sees only itself and the tokens before it, as in a decoder-only model."""
        return _is_decoder(self.network.config)

    @property
    def initializer_range(self) -> float:
        """Standard deviation of the network's initial weights. Heads start with the same one."""
        return float(getattr(self.network.config, "initializer_range", 0.02))

    @property
    def dropout(self) -> float:
        """Dropout that suits a head on this backbone: the one that its configuration has for
        classifiers, else the one for hidden states, else 0."""
        config = self.network.config
        for name in (
            "classifier_dropout",
            "hidden_dropout_prob",
            "dropout_rate",
            "resid_pdrop",
            "dropout",
        ):
            value = getattr(config, name, None)
            if value is not None:
                return float(value)
        return 0.0

    def forward(self, batch: Batch, *, skip: int = 0) -> Encoded:
        """Return token states (batch, length, hidden), of a packed batch (1, tokens, hidden), and
        one vector per input (batch, hidden).

        `skip`: the number of tokens in front of each input that belong to no input. They are left
        out of the result, whose length is so much shorter. A pooler has to be told by itself.
        """
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask.long(),
        }
        if isinstance(batch, PackedBatch):
            inputs["position_ids"] = batch.layout.positions
        if batch.token_type_ids is not None:
            inputs["token_type_ids"] = batch.token_type_ids
        output = self.network(**inputs)
        hidden, mask = output.last_hidden_state[:, skip:], batch.attention_mask[:, skip:]
        pooled = (
            self._pool_packed(hidden[0], batch.layout)
            if isinstance(batch, PackedBatch)
            else self._pool(hidden, output, mask)
        )
        language = None if self.language_head is None else self.scores
        return Encoded(hidden, pooled, mask, language, self.decoder)

    def scores(self, states: Tensor) -> Tensor:
        """Return what the language head gives for token states (..., hidden): (..., vocabulary) in
        fp32."""
        assert self.language_head is not None
        (embeddings,) = self.word_embeddings()
        scores: Tensor = self.language_head(states, embeddings.weight)
        return scores

    def _pool(self, hidden: Tensor, output: Any, mask: Tensor) -> Tensor:
        if self.pooling == "pooler":
            return output.pooler_output
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "mean":
            members = mask.unsqueeze(-1)
            return (hidden * members).sum(1) / members.sum(1)
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), mask.sum(1) - 1]

    def _pool_packed(self, states: Tensor, layout: Layout) -> Tensor:
        """Return one vector per input of a packed batch, whose states are (tokens, hidden)."""
        if self.pooling == "mean":
            # A product with zeros and ones: unlike a sum by index, it has one order of addition.
            inputs = torch.arange(layout.features, device=states.device)
            members = (layout.owners == inputs.unsqueeze(1)).float()
            with torch.autocast(states.device.type, enabled=False):
                return (members @ states.float()) / members.sum(1, keepdim=True)
        chosen = states.index_select(0, layout.last if self.pooling == "last" else layout.first)
        # Poolers of the library read the first state of each row.
        network: Any = self.network
        return network.pooler(chosen.unsqueeze(1)) if self.pooling == "pooler" else chosen


def build_backbone(
    files: BackboneFiles, model: Model, *, load_weights: bool = True, language: bool = False
) -> Backbone:
    """Build the backbone of `files`: with pretrained weights if it has a location and
    `load_weights` is true, else initialised from torch's generator. `language`: whether it has to
    answer in text, with the language head of a decoder-only model.

    Raises UserError when the weights cannot be loaded or `model.pooling` does not fit the network.
    """
    network, info = load_network(
        AutoModelForCausalLM if language else AutoModel, files, model, load_weights=load_weights
    )
    config = network.config
    missing = {"pooler"}
    if info is not None:
        missing = {key.split(".")[0] for key in info["missing_keys"]}
        _check_complete(model, network, info)
    head = None
    if language:
        head, base = _language_head(network), network.base_model
        assert isinstance(base, PreTrainedModel)
        network = base
    if config.is_encoder_decoder:
        network = network.get_encoder()
    if files.architecture.get(FIELD):
        prune(network, heads_left(files.architecture))
    if model.gradient_checkpointing:
        recompute(network)
    has_pooler = getattr(network, "pooler", None) is not None
    pooling: str = model.pooling
    if pooling == "auto":
        pooling = _fitting_pooling(
            config, has_trained_pooler=has_pooler and "pooler" not in missing
        )
    elif pooling == "pooler" and not has_pooler:
        raise UserError(
            f"{config.model_type} has no pooler",
            where="model.pooling=pooler",
            fix="choices: auto, cls, mean, last",
        )
    return Backbone(network, pooling, head)


def _language_head(language_model: PreTrainedModel) -> LanguageHead:
    """Return the language head of a decoder-only model of the library."""
    output: Any = language_model.get_output_embeddings()
    return LanguageHead(output, tied=output.weight is language_model.get_input_embeddings().weight)


def load_network(
    kind: Any, files: BackboneFiles, model: Model, *, load_weights: bool = True
) -> tuple[PreTrainedModel, dict[str, Any] | None]:
    """Return a network of one of the library's automatic classes, `kind`, and what the library says
    about its weights; None for a network that is initialised from torch's generator, because
    `files` has no location or `load_weights` is false.

    Raises UserError when the network cannot be built or its weights cannot be loaded.
    """
    # A progress bar for every load would break the run's own display.
    disable_progress_bar()
    fields = own_architecture(files.architecture)
    options = {} if model.attention == "auto" else {"attn_implementation": model.attention}
    try:
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        if files.location is None or not load_weights:
            made = kind.from_config(config, dtype=torch.float32, trust_remote_code=False, **options)
            return made, None
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        where = f"model.name={model.name}" if model.name else "model"
        raise UserError(
            f"the architecture cannot be built: {_first_line(error)}", where=where
        ) from error
    assert model.name is not None
    # `files` may come from a run folder and then holds the place where the weights were found.
    # The config decides where they are read from now.
    location = locate(model.name)
    verbosity = logging.get_verbosity()
    try:
        _check_shards(location)
        # Missing weights are reported below, once and in log.txt.
        logging.set_verbosity_error()
        network, info = kind.from_pretrained(
            location,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=from_here(location),
            **options,
        )
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise UserError(
            "the weights do not fit config.json: some have another shape",
            where=f"model.name={model.name}",
            fix="take config.json and the weights from the same model",
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"the weights cannot be loaded: {_first_line(error)}",
            where=f"model.name={model.name}",
            fix="the model must have model.safetensors: pickled weights (pytorch_model.bin) "
            "can run code, so they are never read",
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    return network, info


def recompute(network: PreTrainedModel) -> None:
    """Let the layers of a network keep only their inputs and compute the rest again in the backward
    pass. Raises UserError when it cannot."""
    if not network.supports_gradient_checkpointing:
        raise UserError(
            f"{network.config.model_type} cannot do that",
            where="model.gradient_checkpointing",
            fix="leave it out",
        )
    # The library has renamed this method: its versions have one name or the other.
    enable = (
        getattr(network, "activation_checkpointing_enable", None)
        or network.gradient_checkpointing_enable
    )
    enable({"use_reentrant": False, "context_fn": checkpoint_contexts})


def _check_complete(model: Model, network: PreTrainedModel, info: dict[str, Any]) -> None:
    """Compare the weights that were loaded with the network. Parameters that the weights lack are
    random now.

    Warns of a few missing tensors, and of layers that only the weights have. Raises UserError when
    whole layers or the embeddings of the vocabulary are missing: such a model is not pretrained.
    """
    where = f"model.name={model.name}"
    # The decoder of an encoder-decoder is not used, and a pooler only when it was trained or is
    # asked for.
    unused: tuple[str, ...] = ("decoder.",) if network.config.is_encoder_decoder else ()
    unused += () if model.pooling == "pooler" else ("pooler.",)
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(unused))
    names = [name for name, _ in network.named_parameters() if not name.startswith(unused)]
    layers = {layer for name in names if (layer := layer_of(name)) is not None}
    whole = layers - {layer_of(name) for name in names if name not in missing}
    lost = [f"layer {layer}" for layer in sorted(whole)]
    lost += [name for name in missing if name.endswith(WORD_EMBEDDINGS)]
    if lost:
        raise UserError(
            f"the weights lack {_some(lost)}, which config.json has (layers 0 to "
            f"{max(layers, default=0)})",
            where,
            "take config.json and the weights from the same model, or download it again",
        )
    if missing:
        what = (
            f"the weights lack {len(missing)} of {len(names)} tensors of the model, which begin "
            f"at random: {_some(missing)}"
        )
        warnings.warn(f"{where}: {what}", RunWarning, stacklevel=2)
    known = {_any_layer(name) for name in names}
    beyond = {
        layer_of(key)
        for key in info["unexpected_keys"]
        if any(_any_layer(key).endswith(name) for name in known)
    } - layers
    if extra := sorted(layer for layer in beyond if layer is not None):
        what = (
            "the weights have layers that config.json leaves out "
            f"({_some([str(layer) for layer in extra])})"
        )
        warnings.warn(
            f"{where}: {what}; the model has layers 0 to {max(layers, default=0)}",
            RunWarning,
            stacklevel=2,
        )


def _of_embeddings(parameter: str) -> bool:
    """Return whether a parameter belongs to the embeddings, by the names that the transformers
    library has for them: embeddings, embed_tokens, wte, wpe, shared."""
    return any("embed" in part or part in ("wte", "wpe", "shared") for part in parameter.split("."))


def _any_layer(parameter: str) -> str:
    """Return the name of a parameter with `#` for its layer number, so that it is the same for each
    layer."""
    return ".".join("#" if part.isdigit() else part for part in parameter.split("."))


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (
        f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    )


def _first_line(error: Exception) -> str:
    # The library's message may go on with hundreds of names.
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _check_shards(location: str) -> None:
    """Raise ValueError when the index of sharded weights names a file that is not a safetensors
    file beside it: the library would unpickle that file."""
    index = cached_file(
        location,
        SAFE_WEIGHTS_INDEX_NAME,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    if index is None:
        return
    names = json.loads(Path(index).read_text(encoding="utf-8")).get("weight_map", {}).values()
    bad = [
        name
        for name in names
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors")
    ]
    if bad:
        raise ValueError(
            f"{SAFE_WEIGHTS_INDEX_NAME} names {str(bad[0])[:80]!r}, which is no safetensors file "
            "beside it"
        )


def _fitting_pooling(config: Any, *, has_trained_pooler: bool) -> str:
    if config.is_encoder_decoder:
        return "mean"
    if _is_decoder(config):
        return "last"
    return "pooler" if has_trained_pooler else "cls"


def _is_decoder(config: Any) -> bool:
    return is_causal(config.model_type) and not config.is_encoder_decoder
