"""The environment variables of a launcher: a whole launch, none, half a launch, and those of
another job."""

from __future__ import annotations

import pytest

from mtlcli.distributed.environment import OTHER_LAUNCHERS, Launch, read_launch
from mtlcli.errors import UserError

NAMES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    *OTHER_LAUNCHERS,
)
WHOLE = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}


def read(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> Launch | None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return read_launch()


def test_a_whole_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, WHOLE) == Launch(1, 4, 0, 1, "node7", 29500)
    there = WHOLE | {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert read(monkeypatch, there) == Launch(1, 4, 1, 2, "node7", 29500)
    # Started by hand on one machine: the address says that all ranks are here.
    assert read(monkeypatch, WHOLE | {"MASTER_ADDR": "localhost"}) == Launch(
        1, 4, 1, 4, "localhost", 29500
    )


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RANK": "3"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"LOCAL_RANK": "x", "MASTER_PORT": "x"},
        {"SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_no_launch(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    assert read(monkeypatch, variables) is None


WRONG = [
    ({"RANK": "node1"}, "RANK=node1: the value is not a whole number from 0"),
    ({"RANK": "", "WORLD_SIZE": ""}, "RANK=: the value is not a whole number from 0"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: the value is not a whole number from 1"),
    ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE=two: the value is not"),
    ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4: the variable announces 4 ranks, but RANK is not set"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE=2: the variable announces 2 ranks, but "
                                       "MASTER_ADDR is not set"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "but MASTER_PORT is not set"),
    (WHOLE | {"RANK": "4"}, "RANK=4: a launch of 4 ranks (WORLD_SIZE=4) has ranks 0 to 3"),
    (WHOLE | {"MASTER_PORT": "70000"}, "MASTER_PORT=70000: the value is not a whole number from 1 "
                                       "to 65535"),
    (WHOLE | {"MASTER_ADDR": ""}, "but MASTER_ADDR is not set"),
    (WHOLE | {"LOCAL_RANK": "-1"}, "LOCAL_RANK=-1: the value is not"),
    (WHOLE | {"LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE=5: the value is not a whole number from "
                                        "1 to 4"),
    (WHOLE | {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "2"}, "LOCAL_RANK=2: the value is not a whole "
                                                           "number from 0 to 1"),
    ({"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_STEP_NUM_TASKS=4: srun has started 4 tasks, and RANK "
                                    "and WORLD_SIZE are not set"),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, "if each is a run of its own, type unset OMPI_COMM_WORLD_SIZE"),
]  # fmt: skip


@pytest.mark.parametrize(("variables", "text"), WRONG)
def test_half_a_launch_is_refused_by_name_and_value(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], text: str
) -> None:
    with pytest.raises(UserError) as caught:
        read(monkeypatch, variables)
    assert text in str(caught.value) and "unset" in str(caught.value)
