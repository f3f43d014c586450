"""The layers of a backbone: finding them, and putting something else in their place.

Strategies change what happens at a layer (a copy for each task, experts, an adapter behind
it) and leave the rest of the transformers network as it is: masks, position biases, attention
implementations and checkpointing keep working.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone


class Layer(nn.Module):
    """A module that stands in the place of a layer of the network. Attributes that it does not
    have, and the network reads, are those of the layer, `like`."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that torch does not register the layer as a submodule a second time.
        self._like: tuple[nn.Module] = (like,)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return (
                getattr(self.__dict__["_like"][0], name)
                if "_like" in self.__dict__
                else super().__getattr__(name)
            )


def layer_list(network: nn.Module) -> nn.ModuleList:
    """Return the list that holds the layers of a transformers network, lowest first.

    Raises UserError when the network has no list with one entry for each layer (ALBERT's layers are
    one and the same).
    """
    config = network.config.get_text_config()  # type: ignore[union-attr, operator]
    depth = config.num_hidden_layers
    for module in network.modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module) == depth
            and len({id(layer) for layer in module}) == depth
        ):
            return module
    raise UserError(
        f"{config.model_type} does not keep its {depth} layers in a list, each with weights of its "
        "own",
        where="sharing",
        fix="type sharing=hard or sharing=none, or another model",
    )


def chosen_layers(layers: Sequence[int] | Literal["all"], depth: int, where: str) -> list[int]:
    """Return the chosen layers by their numbers from 0, in order, without repetition. Negative
    numbers in `layers` count from the top. Raises UserError when a layer does not exist."""
    if layers == "all":
        return list(range(depth))
    wrong = [layer for layer in layers if not -depth <= layer < depth]
    if wrong:
        raise UserError(
            f"there is no layer {wrong[0]}",
            where=where,
            fix=f"the model has layers 0 to {depth - 1}; -1 is the last one",
        )
    return sorted({layer % depth for layer in layers})


def hidden_of(output: Any) -> Tensor:
    """Return the hidden states (batch, length, hidden) in the output of a layer: the output itself,
    or the first entry of a tuple."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """Return the output of a layer with other hidden states."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def hidden_into(inputs: tuple[Any, ...], more: dict[str, Any]) -> Tensor:
    """Return the hidden states (batch, length, hidden) in the arguments of a layer."""
    hidden: Tensor = inputs[0] if inputs else more["hidden_states"]
    return hidden


def replace_layers(
    backbone: Backbone,
    layers: Sequence[int] | Literal["all"],
    place: Callable[[nn.Module], Layer],
    *,
    frozen: bool,
) -> None:
    """Replace each layer that `layers` (`sharing.layers`) chooses by `place(layer)`. `frozen`: the
    backbone is not trained.

    Raises UserError when a layer does not exist.
    """
    if frozen:
        backbone.requires_grad_(False)
    there = layer_list(backbone.network)
    for number in chosen_layers(layers, len(there), "sharing.layers"):
        there[number] = place(there[number])
