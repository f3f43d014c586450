"""Requests in a queue: their order, their batches, and that one does not hurt the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from mtlcli.errors import Problem, UserError
from mtlcli.serve.batching import Abandoned, Batcher, Full, Job

SECONDS = 30


@dataclass
class Found:
    """The inputs of a request; those that are `bad` cannot be read."""

    inputs: Sequence[str]
    names: Sequence[str]

    @property
    def faults(self) -> Mapping[str, Mapping[int, Problem]]:
        bad = {
            row: Problem("bad", f"row {row + 1}") for row, x in enumerate(self.inputs) if x == "bad"
        }
        return dict.fromkeys(self.names, bad)


@dataclass
class Given:
    predictions: list[Any]


@dataclass
class Echo:
    """A model that predicts its inputs in capitals, and waits for `go` before each batch."""

    go: threading.Event = field(default_factory=threading.Event)
    began: threading.Event = field(default_factory=threading.Event)
    batches: list[list[str]] = field(default_factory=list)

    def read(self, inputs: Sequence[Any], names: Sequence[str]) -> Found:
        if "unreadable" in inputs:
            raise UserError("there is no column 'text'")
        return Found(inputs, names)

    def answer_together(
        self, inputs: Sequence[Found], on_batch: Callable[[], None]
    ) -> Sequence[Mapping[str, Given]]:
        self.began.set()
        assert self.go.wait(SECONDS)
        on_batch()
        self.batches.append([text for each in inputs for text in each.inputs])
        if any("poison" in each.inputs for each in inputs):
            raise RuntimeError("the model fails on it")
        return [
            {name: Given([text.upper() for text in each.inputs]) for name in each.names}
            for each in inputs
        ]


@pytest.fixture
def model() -> Echo:
    return Echo()


@pytest.fixture
def batcher(model: Echo) -> Iterator[Batcher[Found]]:
    made = Batcher(model, waiting=50, size=1000, rows=4)
    yield made
    model.go.set()
    made.close()


def held(model: Echo, batcher: Batcher[Found]) -> Job:
    """Give the model a request on which it works until it may go on."""
    job = batcher.submit(["first"], ["a"], 1)
    assert model.began.wait(SECONDS)
    return job


def test_waiting_requests_share_batches_in_order(model: Echo, batcher: Batcher[Found]) -> None:
    held(model, batcher)
    jobs = [batcher.submit([f"x{number}"], ["a"], 1) for number in range(6)]
    other = batcher.submit(["y"], ["a", "b"], 1)
    large = batcher.submit([f"z{number}" for number in range(9)], ["a"], 1)
    model.go.set()
    answers = [job.answer.result(SECONDS) for job in jobs]
    assert answers == [{"a": [f"X{number}"]} for number in range(6)]
    assert other.answer.result(SECONDS) == {"a": ["Y"], "b": ["Y"]}
    assert len(large.answer.result(SECONDS)["a"]) == 9
    assert [len(batch) for batch in model.batches] == [1, 4, 2, 1, 9]
    assert (batcher.batches, batcher.batched) == (5, 9)


def test_many_clients_lose_nothing(model: Echo, batcher: Batcher[Found]) -> None:
    model.go.set()
    found: dict[int, Any] = {}

    def client(number: int) -> None:
        for text in range(20):
            while True:
                try:
                    job = batcher.submit([f"{number}-{text}"], ["a"], 1)
                    break
                except Full:
                    continue
            found[100 * number + text] = job.answer.result(SECONDS)["a"]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {100 * n + text: [f"{n}-{text}"] for n in range(10) for text in range(20)}
    assert sum(map(len, model.batches)) == batcher.batched == 200


def test_an_error_of_one_request_is_its_own(model: Echo, batcher: Batcher[Found]) -> None:
    held(model, batcher)
    texts = ("good", "poison", "bad", "unreadable", "fine")
    good, poison, bad, unreadable, fine = (batcher.submit([text], ["a"], 1) for text in texts)
    model.go.set()
    assert good.answer.result(SECONDS) == {"a": ["GOOD"]}
    assert fine.answer.result(SECONDS) == {"a": ["FINE"]}
    with pytest.raises(RuntimeError, match="fails on it"):
        poison.answer.result(SECONDS)
    with pytest.raises(UserError, match="row 1: bad"):
        bad.answer.result(SECONDS)
    with pytest.raises(UserError, match="no column"):
        unreadable.answer.result(SECONDS)


def test_the_queue_is_bounded_in_requests_and_bytes(model: Echo) -> None:
    few = Batcher(model, waiting=2, size=100, rows=4)
    held(model, few)
    first = few.submit(["x"], ["a"], 500)  # a request that is too large for the queue has it alone
    with pytest.raises(Full):
        few.submit(["y"], ["a"], 1)
    first.abandon()  # nobody waits for it: it makes room
    few.submit(["y"], ["a"], 1)
    few.submit(["z"], ["a"], 1)
    assert few.waiting == 2
    with pytest.raises(Full):
        few.submit(["w"], ["a"], 1)
    model.go.set()
    few.close()
    assert model.batches == [["first"], ["y", "z"]]
    with pytest.raises(Full):
        few.submit(["late"], ["a"], 1)


def test_no_time_is_spent_on_what_nobody_waits_for(model: Echo, batcher: Batcher[Found]) -> None:
    working = held(model, batcher)
    waiting = batcher.submit(["x"], ["a"], 1)
    for job in (working, waiting):
        job.abandon()
    after = batcher.submit(["y"], ["a"], 1)
    model.go.set()
    assert after.answer.result(SECONDS) == {"a": ["Y"]}
    assert isinstance(working.answer.exception(SECONDS), Abandoned)
    assert waiting.answer.cancelled() and model.batches == [["y"]]


def test_the_queue_is_answered_before_the_end(model: Echo) -> None:
    batcher = Batcher(model, waiting=50, size=1000, rows=4)
    held(model, batcher)
    jobs = [batcher.submit([str(number)], ["a"], 1) for number in range(20)]
    model.go.set()
    batcher.close()
    assert [job.answer.result(0) for job in jobs] == [{"a": [str(n)]} for n in range(20)]
