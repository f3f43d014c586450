"""What task copies cost: the time of a step of one task's batch when K copies of the network run,
side by side in one run.

Arms: `hard`; `cross_stitch`, whose copies run at once; and the same mathematics as a bare loop has
it: K modules a layer, called one after the other, their states stacked and mixed. The loop starts
from the weights of `cross_stitch`, and both must give the same states. Then `soft`, which runs one
copy and pays for its penalty on all: a step with and without it.

A step is forward, backward and the penalty, as a run has them; where the table says so, AdamW's
update as well. Networks are BERT-like from a configuration, with random ids: nothing is read. Arms
alternate within each round; medians are given. One thread, and its CPU time: what it would take on
a machine that does nothing else.

    python scripts/bench/copies.py                               # K = 2, 4, 8; both sizes
    python scripts/bench/copies.py --tasks 8 --sizes minilm --rounds 9
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from mtlcli.config.sharing import sharings
from mtlcli.data.batches import Batch, InputFormat, collate
from mtlcli.data.features import Features
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import HasAuxiliaryLoss, Trunk
from mtlcli.sharing.cross_stitch import CrossStitchSharing
from mtlcli.sharing.cross_stitch.trunk import Stitched, StreamLayer
from mtlcli.sharing.hard import HardSharing
from mtlcli.sharing.parts.layers import layer_list
from mtlcli.sharing.soft import SoftSharing

SIZES = {
    "tiny": {"layers": 2, "hidden": 64, "heads": 4, "vocabulary": 8000, "length": 16},
    "minilm": {"layers": 6, "hidden": 384, "heads": 12, "vocabulary": 30522, "length": 32},
}
EXAMPLES = 8
OWN = 0.7
"""Not near 1, so that a stream mixed up with another shows in the states."""


class LoopLayer(nn.Module):
    """K copies of a layer, one after the other, and their mixture."""

    def __init__(self, layers: list[nn.Module], unit: Tensor, own: int | None) -> None:
        """`own`: the one stream that is wanted; None: all of them."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.unit = nn.Parameter(unit)
        self.own = own

    def forward(self, hidden: Any, *inputs: Any, **more: Any) -> Any:
        """The states (K, ...) of all streams, or of stream `own`."""
        streams = hidden if hidden.ndim == 4 else [hidden] * len(self.layers)
        states = torch.stack(
            [
                layer(stream, *inputs, **more)
                for layer, stream in zip(self.layers, streams, strict=True)
            ]
        )
        rows = self.unit if self.own is None else self.unit[self.own]
        return torch.tensordot(rows, states, 1)


def make_backbone(size: dict[str, int]) -> Backbone:
    """A BERT-like network without dropout, the same at every call."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size["vocabulary"],
        hidden_size=size["hidden"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        intermediate_size=4 * size["hidden"],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return Backbone(BertModel(config, add_pooling_layer=False), "cls")


def make_batch(size: dict[str, int]) -> Batch:
    """Random ids; a quarter of the inputs is padded by a quarter, as real batches are."""
    lengths = np.full(EXAMPLES, size["length"])
    lengths[: EXAMPLES // 4] -= size["length"] // 4
    ids = np.random.default_rng(0).integers(1, size["vocabulary"], lengths.sum())
    features = Features(ids, np.concatenate([[0], lengths.cumsum()]), lengths)
    return collate(
        features,
        np.arange(EXAMPLES),
        input_format=InputFormat(0, False),
        denominator=float(EXAMPLES),
    )


def build(config: Any, size: dict[str, int], tasks: list[str]) -> Trunk:
    """The trunk of a strategy."""
    trunk: Trunk = sharings.implementation(config.name)(
        config, lambda: make_backbone(size), {task: task for task in tasks}
    )
    return trunk.train()


def loop_of(stitched: Stitched, size: dict[str, int]) -> Backbone:
    """The first task's network of `stitched`, with copies that run one after the other."""
    backbone = make_backbone(size)
    backbone.load_state_dict(
        {
            name: value
            for name, value in stitched.backbone.state_dict().items()
            if ".layer." not in name
        },
        strict=False,
    )
    layers = layer_list(backbone.network)
    for number, placed in stitched.placed.items():
        assert isinstance(placed, StreamLayer) and placed.unit is not None
        copies = []
        for k in range(len(stitched.heads)):
            copy = deepcopy(layers[number])
            copy.load_state_dict(
                {name: placed.stacked.of(name)[k].detach() for name, _ in copy.named_parameters()}
            )
            copies.append(copy)
        layers[number] = LoopLayer(
            copies, placed.unit.detach().clone(), 0 if number == len(layers) - 1 else None
        )
    return backbone.train()


def step_of(module: nn.Module, *inputs: Any, update: bool = False) -> Callable[[], None]:
    """The function that takes one step of `inputs`. `update`: and lets AdamW change the weights."""
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            # A run adds sparse gradients up into a dense one each step; here autograd makes it at
            # once.
            part.sparse = False
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-9, fused=True) if update else None

    def step() -> None:
        module.zero_grad(set_to_none=True)
        module(*inputs).hidden.square().mean().backward()
        term = module.penalty() if isinstance(module, HasAuxiliaryLoss) else None
        if term is not None:
            term.backward()
        if optimizer is not None:
            optimizer.step()

    return step


def timed(
    functions: dict[str, Callable[[], None]], rounds: int, repeats: int
) -> dict[str, list[float]]:
    """CPU seconds of a step of each arm in each round; a round before the first is left out."""
    times: dict[str, list[float]] = {label: [] for label in functions}
    for number in range(rounds + 1):
        for label, function in functions.items():
            gc.collect()
            start = time.process_time()
            for _ in range(repeats):
                function()
            if number:
                times[label].append((time.process_time() - start) / repeats)
    return times


def check(stitched: Stitched, loop: Backbone, batch: Batch, task: str) -> float:
    """The largest difference between what the two forms give; raises when it is not rounding."""
    with torch.no_grad():
        one, other = stitched(task, batch).hidden, loop(batch).hidden
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    return float((one - other).abs().max())


def main() -> None:
    """Time the arms."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"One thread, torch {torch.__version__}, medians of {arguments.rounds} rounds, ms a step")
    for name in arguments.sizes:
        size = SIZES[name]
        batch = make_batch(size)
        repeats = 20 if name == "tiny" else 1
        _stitched(name, size, batch, arguments, repeats)
        _soft(name, size, batch, arguments, repeats)


def _stitched(
    name: str, size: dict[str, int], batch: Batch, arguments: argparse.Namespace, repeats: int
) -> None:
    print(
        f"\n| {name} | hard | cross_stitch | loop | cross_stitch / hard | loop / hard | loop / "
        "cross_stitch | largest difference |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for count in arguments.tasks:
        tasks = [f"task{k}" for k in range(count)]
        hard, stitched = (
            build(HardSharing(), size, tasks),
            build(CrossStitchSharing(own=OWN), size, tasks),
        )
        assert isinstance(stitched, Stitched)
        with torch.no_grad():
            # Copies that differ, so that their order matters.
            for parameter in stitched.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        loop = loop_of(stitched, size)
        difference = check(stitched, loop, batch, tasks[0])
        steps = {
            "hard": step_of(hard, "task0", batch),
            "cross_stitch": step_of(stitched, "task0", batch),
            "loop": step_of(loop, batch),
        }
        times = timed(steps, arguments.rounds, repeats)
        cells = [f"{1000 * statistics.median(values):.1f}" for values in times.values()]
        cells += [
            _ratio(times, *pair)
            for pair in (("cross_stitch", "hard"), ("loop", "hard"), ("loop", "cross_stitch"))
        ]
        print(f"| K = {count} | {' | '.join(cells)} | {difference:.1e} |", flush=True)


def _soft(
    name: str, size: dict[str, int], batch: Batch, arguments: argparse.Namespace, repeats: int
) -> None:
    print(
        f"\n| {name}, soft | without penalty | with it | its share | the same with AdamW: without "
        "| with it | its share |"
    )
    print("|---|---|---|---|---|---|---|")
    for count in arguments.tasks:
        tasks = [f"task{k}" for k in range(count)]
        cells = []
        for update in (False, True):
            steps = {}
            for label, strength in (("without", 0.0), ("with", 1e-3)):
                trunk = build(SoftSharing(strength=strength), size, tasks)
                steps[label] = step_of(trunk, "task0", batch, update=update)
            times = timed(steps, arguments.rounds, repeats)
            without, there = (statistics.median(values) for values in times.values())
            cells += [
                f"{1000 * without:.1f}",
                f"{1000 * there:.1f}",
                f"{100 * (1 - without / there):.0f}%",
            ]
        print(f"| K = {count} | {' | '.join(cells)} |", flush=True)


def _ratio(times: dict[str, list[float]], one: str, other: str) -> str:
    return f"{statistics.median(a / b for a, b in zip(times[one], times[other], strict=True)):.2f}"


if __name__ == "__main__":
    main()
