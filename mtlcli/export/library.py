"""A task's model as one of the transformers library, which loads without code of others.

The library's classes have heads of their own. Where one computes what a head here does, with the
weights in other places, they are put there; every other case is said with its reason.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, EncoderDecoderConfig, GenerationConfig, PreTrainedModel

from mtlcli.export.network import KINDS
from mtlcli.export.saved import SavedTask
from mtlcli.models.backbone import Backbone
from mtlcli.tasks.base import LibraryHead
from mtlcli.tasks.decoder import DecoderHead
from mtlcli.tasks.heads import Head
from mtlcli.tasks.text_form.task import TextForm

DENSE = (
    ("{base}.pooler.dense", "classifier"),  # BERT and its kin
    ("{base}.pooler", "classifier"),  # ALBERT
    ("pooler.dense", "classifier"),  # DeBERTa
    ("classifier.dense", "classifier.out_proj"),  # RoBERTa and its kin
)
"""Where the classes for whole texts have the dense layer that reads the first token, and the output
layer. The function between the two is tanh, or the configuration names it."""
OUTPUT = ("classifier", "score", "qa_outputs")
"""Where the classes for tokens and spans have their output layer."""


class NoClass(ValueError):
    """Why no class of the transformers library computes what a task's model does: a clause."""


def library_model(saved: SavedTask, backbone: Backbone, wanted: LibraryHead) -> PreTrainedModel:
    """Return a task's model as one of the transformers library, with weights and in evaluation
    mode. `backbone`: what `merged` returned. Raises NoClass."""
    if wanted.kind in KINDS:
        model = _with_head(saved, backbone, wanted)
    else:
        model = _that_writes(saved, backbone, wanted)
    return model.eval()


def library_config(saved: SavedTask, backbone: Backbone, wanted: LibraryHead | None = None) -> Any:
    """Return the configuration of a backbone, with the names of the outputs of a head."""
    fields = deepcopy(saved.files.architecture)
    config: Any = AutoConfig.for_model(fields.pop("model_type"), **fields)
    text = config.get_text_config()
    if text.num_hidden_layers != backbone.depth:  # Layers that the task does not read are gone.
        text.num_hidden_layers = backbone.depth
    if wanted is not None and wanted.kind in KINDS:
        labels = wanted.labels or (("LABEL_0",) if wanted.kind == "MultipleChoice" else ())
        if labels:
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: number for number, label in enumerate(labels)}
        config.problem_type = wanted.problem
    return config


def _with_head(saved: SavedTask, backbone: Backbone, wanted: LibraryHead) -> PreTrainedModel:
    head: Head = saved.head
    config = library_config(saved, backbone, wanted)
    for name in ("classifier_dropout", "classifier_dropout_prob"):
        if hasattr(config, name):
            first: Any = head.layers[0]
            setattr(config, name, first.p)
    if hasattr(config, "pooler_hidden_act"):
        config.pooler_hidden_act = "tanh"
    model = _built(f"AutoModelFor{wanted.kind}", config)
    if saved.files.has_decoder and any(
        name.endswith("decoder") for name, _ in model.named_modules()
    ):
        raise NoClass(f"the head of {type(model).__name__} reads the decoder")
    _fill(model, backbone)
    dense = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    if wanted.kind in ("SequenceClassification", "MultipleChoice"):
        places = [
            (first, second)
            for first, second in DENSE
            if _linear(model, first) is not None and _linear(model, second) is not None
        ]
        if not places:
            raise NoClass(f"the head of {type(model).__name__} is another one")
        first, second = places[0]
        _copy(_linear(model, first), _first_token_layer(backbone, dense))
    else:
        if dense:
            raise NoClass(f"the head has dense layers, which {type(model).__name__} has not")
        second = next((name for name in OUTPUT if _linear(model, name) is not None), "")
        if not second:
            raise NoClass(f"the head of {type(model).__name__} is another one")
    _copy(_linear(model, second), head.output)
    return model


def _first_token_layer(backbone: Backbone, dense: list[nn.Linear]) -> nn.Linear:
    """Return the one dense layer that reads the first token: that of the head, or that of the
    network's own pooler. Raises NoClass."""
    if backbone.pooling == "pooler" and not dense:
        pooler: Any = backbone.network.pooler
        layer: nn.Linear = pooler if isinstance(pooler, nn.Linear) else pooler.dense
        return layer
    if backbone.pooling != "cls":
        raise NoClass(f"the head reads what pooling={backbone.pooling} gives")
    if len(dense) != 1:
        raise NoClass(f"the head has {len(dense)} dense layers, and the library's has one")
    return dense[0]


def _that_writes(saved: SavedTask, backbone: Backbone, wanted: LibraryHead) -> PreTrainedModel:
    """Return a language model, or an encoder-decoder."""
    encoder = saved.encoder
    config = library_config(saved, backbone)
    decoder = writer(saved, backbone)
    if wanted.kind == "CausalLM":
        head = backbone.language_head
        assert head is not None
        config.tie_word_embeddings = head.tied
        model = _built("AutoModelForCausalLM", config)
        _fill(model, backbone)
        if not head.tied:
            output: Any = model.get_output_embeddings()
            output.load_state_dict(head.state_dict())
        start = None
    else:
        assert decoder is not None
        start = decoder.start_id
        model = (
            _own_decoder(config, backbone, decoder)
            if saved.files.has_decoder
            else _scratch_decoder(config, backbone, decoder)
        )
    # Options that the configuration brings along would act although no key of the task names them.
    model.generation_config = GenerationConfig(
        eos_token_id=encoder.end_id,
        pad_token_id=encoder.pad_id,
        decoder_start_token_id=start,
        **_writing(saved),
    )
    return model


def writer(saved: SavedTask, backbone: Backbone) -> DecoderHead | None:
    """Return the decoder that writes a task's texts, if one does."""
    return saved.head if isinstance(saved.head, DecoderHead) else backbone.decoder


def _writing(saved: SavedTask) -> dict[str, Any]:
    """Return the options with which the task's texts are written."""
    config = saved.task.config
    if saved.task.answers_in_text:
        text, task = saved.config.text, saved.task
        assert isinstance(task, TextForm)
        # One more token for the end.
        longest = max((len(tokens) + 1 for tokens in task.choices), default=task.longest_answer)
        options: dict[str, Any] = {
            "max_new_tokens": text.max_answer or longest,
            "num_beams": text.beams,
        }
        if text.sample:
            drawn = {"temperature": text.temperature, "top_p": text.top_p, "top_k": 0}
            options |= {"do_sample": True} | drawn
        return options
    options = {"max_new_tokens": config.max_new_tokens or config.max_target_length}
    if config.sample:
        drawn = {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
        return options | {"do_sample": True} | drawn
    if config.beams > 1:
        beams = {"num_beams": config.beams, "length_penalty": config.length_penalty}
        return options | beams | {"early_stopping": True}
    return options


def _own_decoder(config: Any, backbone: Backbone, decoder: DecoderHead) -> PreTrainedModel:
    """Return an encoder-decoder with a backbone as its encoder.

    The two have word embeddings of their own here, since tasks that write nothing train those of
    the encoder alone. The library ties them when it builds a model, and leaves them apart (from
    version 5 on) when it loads one whose weights are not the same."""
    model = _built("AutoModelForSeq2SeqLM", config)
    embedding: Any = _place(model, backbone).get_input_embeddings()
    embedding.weight = nn.Parameter(embedding.weight.detach().clone())
    _fill(model, backbone)
    missing, unexpected = model.load_state_dict(decoder.network.state_dict(), strict=False)
    lost = [name for name in missing if "encoder." not in name and "shared" not in name]
    if lost or unexpected:
        raise NoClass(f"{type(model).__name__} has other tensors ({[*lost, *unexpected][0]})")
    return model


def _scratch_decoder(config: Any, backbone: Backbone, decoder: DecoderHead) -> PreTrainedModel:
    """Return an encoder-decoder of a backbone and a decoder of another architecture."""
    theirs = deepcopy(decoder.network.config)
    theirs.is_decoder, theirs.add_cross_attention, theirs.is_encoder_decoder = True, True, False
    # The library counts the layers of a cache of keys and values by those of the encoder.
    theirs.encoder_layers = theirs.decoder_layers
    theirs.encoder_attention_heads = theirs.decoder_attention_heads
    both: Any = EncoderDecoderConfig.from_encoder_decoder_configs(config, theirs)
    both.decoder_start_token_id, both.pad_token_id = decoder.start_id, decoder.pad_id
    model = _built("AutoModelForSeq2SeqLM", both)
    _fill(model, backbone)
    inner: Any = model.decoder
    inner.model.decoder.load_state_dict(decoder.network.model.decoder.state_dict())
    output: Any = model.get_output_embeddings()
    _copy(output, decoder.network.get_output_embeddings())
    return model


def _built(name: str, config: Any) -> PreTrainedModel:
    """Return a model of one of the library's automatic classes in fp32, with random weights. Raises
    NoClass when the library has none for the architecture."""
    state = torch.random.get_rng_state()
    try:
        model: PreTrainedModel = getattr(transformers, name).from_config(
            config, dtype=torch.float32, trust_remote_code=False
        )
    except (ValueError, TypeError, AttributeError) as error:
        kind = config.model_type
        raise NoClass(f"the transformers library has no {name} for {kind}") from error
    finally:
        torch.random.set_rng_state(state)
    return model


def _fill(model: PreTrainedModel, backbone: Backbone) -> None:
    """Copy the weights of a backbone into the network of its class in a model. Raises NoClass."""
    place = _place(model, backbone)
    missing, unexpected = place.load_state_dict(backbone.network.state_dict(), strict=False)
    # Where a head brings the pooler's layer itself, or reads tokens, the network has no pooler.
    if any(not name.startswith("pooler.") for name in (*missing, *unexpected)):
        raise NoClass(f"{type(model).__name__} has other tensors than the backbone")


def _place(model: PreTrainedModel, backbone: Backbone) -> Any:
    """Return the network in a model that is of a backbone's class. Raises NoClass when there is
    none."""
    kind = type(backbone.network)
    place = next((each for each in model.modules() if type(each) is kind), None)
    if place is None:
        raise NoClass(f"{type(model).__name__} has no {kind.__name__} in it")
    return place


def _linear(model: PreTrainedModel, name: str) -> nn.Linear | None:
    """Return a linear layer of a model; None where there is none of that name."""
    try:
        found = model.get_submodule(name.format(base=model.base_model_prefix))
    except AttributeError:
        return None
    return found if isinstance(found, nn.Linear) else None


def _copy(into: nn.Linear | None, layer: nn.Linear) -> None:
    """Copy the weights of a linear layer. Raises NoClass where the place has no bias for its."""
    assert into is not None
    if into.weight.shape != layer.weight.shape:
        raise NoClass("its head has another width")
    if (into.bias is None) != (layer.bias is None):
        raise NoClass("its output layer has no bias")
    with torch.no_grad():
        into.weight.copy_(layer.weight)
        if into.bias is not None:
            into.bias.copy_(layer.bias)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a module by name, those that are the same once."""
    seen: set[int] = set()
    found = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            seen.add(tensor.data_ptr())
            found[name] = tensor.detach().clone().contiguous()
    return found
