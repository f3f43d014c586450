"""One rank of tests/ddp/test_weightings.py: trains with every weighting and writes the parameters. Not a test itself.

python -m tests.ddp.every_weighting FOLDER, with RANK and WORLD_SIZE in the environment.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import save_file

from mtlcli.config import Runner, weightings
from mtlcli.config.balancing import Balancing
from mtlcli.runner.distributed import connect
from tests.runner.small import small_data
from tests.runner.trajectory import make, optimizer_of, train

APPROXIMATIONS = {"bf16 rows": {"rows": "bf16"}, "last layers": {"last_layers": 1}, "projection": {"projection": 64}, "every": {"every": 4}}


def main() -> None:
    """Every weighting, and the approximations of one gradient balancing."""
    folder = Path(sys.argv[1])
    _, _, features, _ = small_data()
    with connect(Runner(device="cpu", timeout=60)) as ranks:
        variants = [(name, name, {}) for name in weightings]
        variants += [(f"mgda {what}", "mgda", options) for what, options in APPROXIMATIONS.items()]
        for label, name, options in variants:
            accumulation = 2 if issubclass(weightings.configs[name], Balancing) else 1
            model, weighting = make(name, **options)
            train(model, weighting, optimizer_of(model, weighting), features, ranks, range(20), accumulation=accumulation)
            save_file(
                {key: value.detach() for key, value in model.named_parameters()}, folder / f"{label}-{ranks.rank}-{ranks.world}.safetensors"
            )


if __name__ == "__main__":
    main()
