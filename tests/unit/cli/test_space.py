"""The space of a search as overrides and as Optuna's distributions."""

from __future__ import annotations

from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from mtlcli.cli.overrides import parsed
from mtlcli.cli.space import distributions, ends, override, written
from mtlcli.config import Sweep

SPACE = {
    "optim.lr": {"low": 1e-5, "high": 1e-2, "log": True},
    "tasks.rte.weight": {"low": 1, "high": 5},
    "model.layers": {"low": 1, "high": 9, "step": 2},
    "task": [["rte", "cola"], "rte"],
    "optim.clip": [None, 0.1],
    "model.name": ["a b", "true"],
}


def test_entries_become_overrides_of_several_values() -> None:
    assert ends(SPACE) == [
        "optim.lr=1e-05,0.01",
        "tasks.rte.weight=1,5",
        "model.layers=1,9",
        "task=[rte,cola],rte",
        "optim.clip=null,0.1",
        "model.name='a b','true'",
    ]
    assert ends({"optim.lr": {"low": 1}, "a": 3, "b": [{}], "run_dir": ["x"]}) == []


def test_distributions() -> None:
    found = distributions(Sweep(name="optuna", space=SPACE))
    assert found["optim.lr"] == FloatDistribution(1e-5, 1e-2, log=True)
    assert found["tasks.rte.weight"] == FloatDistribution(1, 5), "a weight may be 2.5"
    assert found["model.layers"] == IntDistribution(1, 9, step=2)
    assert found["optim.clip"] == CategoricalDistribution(["null", "0.1"])


def test_values_keep_every_digit() -> None:
    for value in (0.1 + 0.2, 1e-5, 7, True, None, "true", "it's ${x}", ["a", 2]):
        assert parsed(f"key={written(value)}").value() == (
            value if value != "it's ${x}" else r"it's \${x}"
        )
    assert override("weighting", "static") == "weighting=static"
    assert override("optim.lr", 0.30000000000000004) == "optim.lr=0.30000000000000004"
