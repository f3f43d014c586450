"""One rank of tests/long/test_ranks_every_method.py: trains with every weighting and every sharing,
and in several shapes of steps, and writes the parameters. Not a test itself.

RANK, WORLD_SIZE and the like are in the environment, as torchrun sets them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file

from mtlcli.config import Runner, augmentations, samplings, sharings, weightings
from mtlcli.config.augmentation import AugmentationConfig
from mtlcli.config.weighting import Balancing
from mtlcli.distributed.process_group import connect
from mtlcli.models.shards import whole
from mtlcli.training.engine import DataParallel, Forward
from mtlcli.training.sharded import shard
from tests.small import small_data
from tests.trajectory import make, optimizer_of, train
from tests.unit.sampling.test_every_policy import build, feed

APPROXIMATIONS = {
    "bf16 rows": {"rows": "bf16"},
    "last layers": {"last_layers": 1},
    "projection": {"projection": 64},
    "every": {"every": 4},
}
TASKS = ("cola", "stsb", "squad")


class Variant(NamedTuple):
    """What is trained, and how."""

    weighting: str = "static"
    sharing: str = "hard"
    options: dict[str, Any] = {}
    """Options of the weighting."""
    shape: dict[str, Any] = {}
    """Options of `train`."""
    augmentation: AugmentationConfig | None = None
    """How training is augmented, without dropout and with changes too small to tell draws apart."""
    sharded: bool = False
    """Whether several ranks train on shards of the model."""


def one_task(step: int) -> dict[str, int]:
    """A task of its own in each step, and every other time one example, so that the second rank has
    nothing to do."""
    return {TASKS[step % 3]: 9 if step % 2 else 1}


def uneven(step: int) -> dict[str, int]:
    """All tasks, of which one or two have a single example."""
    return {name: 1 if (step + place) % 3 else 12 for place, name in enumerate(TASKS)}


def variants() -> dict[str, Variant]:
    """All that is trained, by label."""
    found = {name: Variant(name) for name in weightings}
    found |= {
        f"mgda {what}": Variant("mgda", options=options) for what, options in APPROXIMATIONS.items()
    }
    for name in sharings:
        found[f"{name} static"] = Variant(sharing=name)
        if sharings.configs[name]().shares:
            found[f"{name} pcgrad"] = Variant("pcgrad", name)
    for name in ("hard", "none", "cross_stitch", "progressive"):
        found[f"{name} one task a step"] = Variant(sharing=name, shape={"plan": one_task})
        found[f"{name} uneven"] = Variant(sharing=name, shape={"plan": uneven})
    small = ("adapters", "lora", "polytropon", "prefix", "prompt")
    for name in ("none", "soft", "mmoe", "task_embedding", *small):
        found[f"{name} on shards"] = Variant(sharing=name, shape={"plan": uneven}, sharded=True)
    found["hard on shards"] = Variant("uncertainty", shape={"plan": uneven}, sharded=True)
    unfreezing = {"unfreeze_every": 3, "accumulation": 3}
    found["unfreezing on shards"] = Variant(shape=unfreezing, sharded=True)
    low = {"unfreeze_every": 2, "bf16": True}
    for name in ("adapters", "mtl_lora", "prefix"):
        found[f"{name} bf16 on shards"] = Variant(sharing=name, shape=low, sharded=True)
    kinds = augmentations.configs
    two = ["cola", "stsb"]
    found |= {
        "r_drop": Variant("pcgrad", augmentation=kinds["r_drop"](tasks=two)),
        "smart": Variant(
            "uncertainty", augmentation=kinds["smart"](tasks=two), shape={"plan": uneven}
        ),
        "freelb": Variant(
            augmentation=kinds["freelb"](radius=1e-5, step_size=1e-5), shape={"accumulation": 3}
        ),
    }
    return found | {
        "accumulation": Variant(shape={"accumulation": 3}),
        "unfreezing": Variant(shape={"unfreeze_every": 3, "plan": one_task}),
        "probe": Variant("uncertainty", shape={"probe": lambda step: step % 3 == 1}),
        "pcgrad uneven": Variant("pcgrad", shape={"plan": uneven}),
        "fomaml uneven": Variant("fomaml", shape={"plan": uneven}),
        "reptile one task a step": Variant("reptile", shape={"plan": one_task}),
    }


def main(place: str) -> None:
    """Train all variants, and count the passes in which torch has summed gradients; write both into
    a folder, and end the process."""
    folder = Path(place)
    _, _, features, _ = small_data()
    summed: Counter[str] = Counter()
    backward = DataParallel.backward

    def counted(engine: DataParallel, forward: Forward, *, last: bool) -> None:
        summed[label] += last and engine._wrapped is not None
        backward(engine, forward, last=last)

    DataParallel.backward = counted  # type: ignore[method-assign]
    with connect(Runner(device="cpu", timeout=60)) as ranks:
        for label, variant in variants().items():
            balances = issubclass(weightings.configs[variant.weighting], Balancing)
            sharded = variant.sharded and ranks.world_size > 1
            engine = {"engine": "fsdp"} if sharded else {}
            model, weighting = make(variant.weighting, variant.sharing, **variant.options, **engine)
            if (augmentation := variant.augmentation) is not None:
                kind = augmentations.implementation(augmentation.name)
                model.augmentation = kind(augmentation)
            if sharded:
                shard(model, ranks, bf16="bf16" in variant.shape)
            train(
                model,
                weighting,
                optimizer_of(model, weighting),
                features,
                ranks,
                range(4 if variant.sharing != "hard" else 20 if variant.shape else 7),
                **({"accumulation": 2 if balances else 1} | variant.shape),
            )
            name = f"{label}-{ranks.rank}-{ranks.world_size}"
            save_file(
                {key: whole(value.detach()) for key, value in model.named_parameters()},
                folder / f"{name}.safetensors",
            )
    (folder / f"summed-{ranks.rank}-{ranks.world_size}.json").write_text(json.dumps(summed))
    plans = {name: [feed(build(name)).plan(step) for step in range(300)] for name in samplings}
    (folder / f"plans-{ranks.rank}-{ranks.world_size}.json").write_text(json.dumps(plans))
    sys.exit(0)
