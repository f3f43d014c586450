"""The pretrained decoder of an encoder-decoder (T5, BART, mT5), as the head of tasks that write
texts; the encoder is the backbone."""

from __future__ import annotations

from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from mtlcli.config.run import Model
from mtlcli.errors import UserError
from mtlcli.models.backbone import load_network, recompute
from mtlcli.models.files import BackboneFiles


def build_decoder(
    files: BackboneFiles, model: Model, *, load_weights: bool = True
) -> PreTrainedModel:
    """Build an encoder-decoder with its language-model head, which still has its encoder: with
    pretrained weights if `files` has a location and `load_weights` is true, else initialised from
    torch's generator.

    Raises UserError when the weights cannot be loaded, or have no decoder.
    """
    network, info = load_network(AutoModelForSeq2SeqLM, files, model, load_weights=load_weights)
    if info is not None and (
        lost := sorted(key for key in info["missing_keys"] if "encoder." not in key)
    ):
        raise UserError(
            f"the weights lack {lost[0]}, which writes texts"
            + (f", and {len(lost) - 1} more tensors of the decoder" if len(lost) > 1 else ""),
            where=f"model.name={model.name}",
            fix="take weights that were saved with their decoder, or leave out the tasks that "
            "write texts",
        )
    if model.gradient_checkpointing:
        recompute(network)
    return network
