"""One rank of tests/runs/ddp/test_every_method.py: trains with every weighting and every
sharing and writes the parameters. Not a test itself.

python -m tests.runs.ddp.every_method FOLDER, with RANK and WORLD_SIZE in the environment.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mtlcli.config import Runner, sharings, weightings
from mtlcli.config.weighting import Balancing
from mtlcli.distributed.process_group import connect
from tests.small import small_data
from tests.trajectory import make, optimizer_of, train

APPROXIMATIONS = {
    "bf16 rows": {"rows": "bf16"},
    "last layers": {"last_layers": 1},
    "projection": {"projection": 64},
    "every": {"every": 4},
}


def variants() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Weighting, sharing and options of the weighting, by label."""
    found: dict[str, tuple[str, str, dict[str, Any]]] = {
        name: (name, "hard", {}) for name in weightings
    }
    found |= {f"mgda {what}": ("mgda", "hard", options) for what, options in APPROXIMATIONS.items()}
    for name in sharings:
        found[f"{name} static"] = ("static", name, {})
        if sharings.configs[name]().shares:
            found[f"{name} pcgrad"] = ("pcgrad", name, {})
    return found


def main() -> None:
    """Train all variants."""
    folder = Path(sys.argv[1])
    _, _, features, _ = small_data()
    with connect(Runner(device="cpu", timeout=60)) as ranks:
        for label, (name, sharing, options) in variants().items():
            accumulation = 2 if issubclass(weightings.configs[name], Balancing) else 1
            model, weighting = make(name, sharing, **options)
            train(
                model,
                weighting,
                optimizer_of(model, weighting),
                features,
                ranks,
                range(10 if sharing == "hard" else 4),
                accumulation=accumulation,
            )
            save_file(
                {key: value.detach() for key, value in model.named_parameters()},
                folder / f"{label}-{ranks.rank}-{ranks.world_size}.safetensors",
            )


if __name__ == "__main__":
    main()
