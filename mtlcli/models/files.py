"""The source of a backbone: its architecture, its tokenizer, and what both need to be used
together. Importing this module does not import torch.

All of this is written into the run folder (`backbone/`), so that a checkpoint can be used on a
machine that has neither the hub nor the folder from which the weights once came.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mtlcli.config.environment import hide
from mtlcli.config.run import Family
from mtlcli.data.encoder import TextEncoder
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
        names = dropout_fields(AutoConfig.for_model(**fields))
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


def dropout_fields(config: Any) -> list[str]:
    """Return the names of the configuration's dropout probabilities, which differ between
    architectures."""
    names = [name for name in config.to_dict() if "dropout" in name or name.endswith("pdrop")]
    return [name for name in names if isinstance(getattr(config, name), float | int)]
