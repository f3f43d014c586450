"""Dynamic batching: requests of many clients wait in a queue, and one thread, which owns the model,
answers those that wait together in common batches.

Nothing waits for a batch to fill up. While the model works, further requests come in, and the next
batch takes all that fit: a single client has the shortest wait, and many clients have full batches.
By hand, since the libraries for it bring a server of their own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from mtlcli.errors import Problem, UserError, panicked


class Checked(Protocol):
    """The inputs of a request, encoded."""

    @property
    def faults(self) -> Mapping[str, Mapping[int, Problem]]:
        """Why rows cannot be read, by task and number."""
        ...


class Answered(Protocol):
    """The predictions of a task for a request."""

    @property
    def predictions(self) -> list[Any]:
        """One for each input."""
        ...


E = TypeVar("E", bound=Checked)


class Model(Protocol[E]):
    """What answers: `mtlcli.predict.predictor.Predictor`."""

    def read(self, inputs: Sequence[Any], names: Sequence[str]) -> E:
        """Check and encode the inputs of a request for some tasks."""
        ...

    def answer_together(
        self, inputs: Sequence[E], on_batch: Callable[[], None]
    ) -> Sequence[Mapping[str, Answered]]:
        """Return the predictions for several requests that name the same tasks. `on_batch`:
        function that is called before each batch of inputs, and raises Abandoned."""
        ...


class Full(Exception):
    """Exception for a request that finds too many others waiting."""


class Abandoned(Exception):
    """Exception that ends a batch for which nobody waits any more."""


@dataclass
class Job:
    """A request that waits."""

    inputs: Sequence[Any]
    """Its inputs."""
    names: tuple[str, ...]
    """Its tasks."""
    size: int
    """Its bytes."""
    answer: Future[dict[str, list[Any]]] = field(default_factory=Future)
    """Its predictions by task. Raises UserError for inputs that cannot be read, and whatever the
    model raises."""
    abandoned: bool = False
    """Whether nobody waits for it any more."""

    def abandon(self) -> None:
        """Spend no more time on it."""
        self.abandoned = True
        self.answer.cancel()


class Batcher(Generic[E]):
    """The queue of requests, and the thread that answers them."""

    def __init__(self, model: Model[E], *, waiting: int, size: int, rows: int) -> None:
        """Start the thread. `waiting`: the most requests in the queue; `size`: the most bytes of
        all of them; `rows`: the number of inputs up to which requests share a batch."""
        self._model = model
        self._waiting, self._size, self._rows = waiting, size, rows
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.batches = 0
        """The number of batches that the model was given."""
        self.batched = 0
        """The number of requests in these batches."""
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of requests in the queue."""
        return len(self._jobs)

    def submit(self, inputs: Sequence[Any], names: Sequence[str], size: int) -> Job:
        """Put a request into the queue. `size`: its bytes. Raises Full when the queue is full or
        closed."""
        job = Job(inputs, tuple(names), size)
        with self._changed:
            self._jobs = deque(each for each in self._jobs if not each.abandoned)
            there = sum(each.size for each in self._jobs)
            full = len(self._jobs) >= self._waiting or (there and there + size > self._size)
            if self._closed or full:
                raise Full
            self._jobs.append(job)
            self._changed.notify()
        return job

    def close(self) -> None:
        """Answer the requests in the queue, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            self._answer([job for job in jobs if job.answer.set_running_or_notify_cancel()])

    def _next(self) -> list[Job]:
        """Wait for requests, and take the first one with all that fit into its batch; none once the
        queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            taken: list[Job] = []
            left: deque[Job] = deque()
            rows = 0
            for job in self._jobs:
                if not taken or (
                    job.names == taken[0].names and rows + len(job.inputs) <= self._rows
                ):
                    taken.append(job)
                    rows += len(job.inputs)
                else:
                    left.append(job)
            self._jobs = left
        return taken

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Answer requests that name the same tasks. An error of one does not reach the others."""
        readable: list[tuple[Job, E]] = []
        for job in jobs:
            try:
                found = self._model.read(job.inputs, job.names)
                faults = [each for of in found.faults.values() for each in of.values()]
                if faults:
                    raise UserError(faults)
            except BaseException as error:  # noqa: BLE001 (the request's own error is its answer)
                _fail(job, error)
            else:
                readable.append((job, found))
        if readable:
            self._predict(readable)

    def _predict(self, readable: Sequence[tuple[Job, E]]) -> None:
        def wanted() -> None:
            if all(job.abandoned for job, _ in readable):
                raise Abandoned

        try:
            self.batches += 1
            self.batched += len(readable)
            answers = self._model.answer_together([found for _, found in readable], wanted)
            for (job, _), answer in zip(readable, answers, strict=True):
                job.answer.set_result({name: each.predictions for name, each in answer.items()})
        except BaseException as error:  # noqa: BLE001 (as above)
            if len(readable) == 1:
                _fail(readable[0][0], error)
            else:
                for each in readable:
                    self._predict([each])


def _fail(job: Job, error: BaseException) -> None:
    """Let a request fail. Panics of libraries in Rust are no Exceptions, and would end more than
    the request."""
    wrapped = RuntimeError(f"{type(error).__name__}: {error}") if panicked(error) else error
    job.answer.set_exception(wrapped)
