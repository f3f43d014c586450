"""Where ranks meet: what is said while some are missing, and that other machines cannot reach
it."""

from __future__ import annotations

import socket

import pytest

from mtlcli.distributed.environment import Launch
from mtlcli.distributed.rendezvous import local_store, meet
from mtlcli.errors import RunError, UserError


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def launch(rank: int, world_size: int, port: int) -> Launch:
    return Launch(rank, world_size, rank, world_size, "localhost", port)


@pytest.fixture(autouse=True)
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)


def test_the_first_rank_names_those_that_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    with pytest.raises(
        RunError, match=r"waited 0\.5 s \(runner.timeout\) for the other ranks: 1, 2 are missing"
    ):
        meet(launch(0, 3, port), 0.5, quiet=0.0)
    assert (
        f"waiting for ranks (rank 0 of 3 at localhost:{port}, 1, 2 are missing): 0 s of 0.5 s"
        in capsys.readouterr().err
    )


def test_the_first_rank_waits_at_an_address_of_its_machine_that_it_cannot_find_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(RunError, match=r"rank 0 of 2 at nowhere\.invalid:"):
        meet(Launch(0, 2, 0, 1, "nowhere.invalid", free_port()), 0.5, quiet=0.0)
    with pytest.raises(RunError, match="rank 0 does not answer: "):
        meet(Launch(1, 2, 0, 1, "nowhere.invalid", free_port()), 0.5, quiet=0.0)
    assert capsys.readouterr().err.count("waiting for ranks (rank") == 2


def test_another_rank_says_that_the_first_does_not_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(RunError, match="rank 0 does not answer: Connection refused"):
        meet(launch(1, 2, free_port()), 0.5, quiet=0.0)
    assert "waiting for ranks (rank 1 of 2 at localhost:" in capsys.readouterr().err


def test_another_program_that_has_the_port_is_not_waited_for_in_silence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            RunError, match="rank 0 does not answer, or another program has the port"
        ):
            meet(launch(1, 2, port), 1.5, quiet=0.0)
    assert "another program has the port" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            UserError,
            match=f"MASTER_PORT={port}: rank 0 cannot listen there: Address already in use",
        ):
            meet(launch(0, 2, port), 5)


def test_a_process_meets_again_at_the_port_that_it_holds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the jobs of a sweep do, each after the other."""
    alone = launch(0, 1, free_port())
    first, second = meet(alone, 5, quiet=0.0), meet(alone, 5, quiet=0.0)
    first.set("key", "old")
    assert not second.check(["key"])
    assert capsys.readouterr().err == ""


def test_leftovers_of_an_earlier_attempt_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under `torchrun --max-restarts`, whose store stays."""
    store = local_store()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    before = meet(Launch(0, 1, 0, 1, "localhost", store.port), 5)
    before.set("key", "old")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr("mtlcli.distributed.rendezvous._meetings", 0)
    assert not meet(Launch(0, 1, 0, 1, "localhost", store.port), 5).check(["key"])
    assert before.check(["key"])
