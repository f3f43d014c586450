"""A trained model that predicts, used from Python, by `mtl predict` and by `mtl serve`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from mtlcli.config import Config
from mtlcli.data.batches import collate, evaluation_batches, evaluation_limits
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import Features, joined
from mtlcli.data.table import Table
from mtlcli.distributed.process_group import Ranks
from mtlcli.errors import Problem, UserError, count_of
from mtlcli.evaluation.best_checkpoint import Found
from mtlcli.evaluation.evaluate import outputs_together
from mtlcli.evaluation.saved_model import SavedModel
from mtlcli.predict.results import Prediction, TaskInfo
from mtlcli.predict.rows import Row, TaskRows, id_column, input_columns, rows_of, table_of
from mtlcli.prepare.store import encoded
from mtlcli.registry import suggest
from mtlcli.tasks.base import Outputs, TaskType


@dataclass
class Encoded:
    """Some rows, encoded for some tasks."""

    rows: dict[str, TaskRows]
    """The rows that each task can read."""
    features: dict[str, Features]
    """Their features."""

    @property
    def faults(self) -> dict[str, dict[int, Problem]]:
        """Why rows cannot be read, by task and by their number from 0."""
        return {
            name: {place: each.of_task(name) for place, each in sorted(rows.faults.items())}
            for name, rows in self.rows.items()
        }


@dataclass
class Answers:
    """The predictions of a task for some rows."""

    predictions: list[Prediction | None]
    """One for each row; None where the row cannot be read."""
    faults: dict[int, Problem]
    """Why rows cannot be read, by their number from 0."""


class Predictor:
    """A trained model. `tasks` says what it can predict, `predict` predicts, `encode` gives vectors
    of texts. It may be used from several threads, one after the other."""

    def __init__(
        self,
        found: Found,
        config: Config,
        tasks: dict[str, TaskType[Any]],
        encoder: TextEncoder,
        saved: SavedModel,
        ranks: Ranks,
    ) -> None:
        self.path = found.run
        """The run folder."""
        self.step = found.checkpoint.step
        """The number of updates that the model has had."""
        self.config = config
        """The configuration of the run."""
        self.tasks: dict[str, TaskInfo] = {
            name: _info(task) for name, task in tasks.items() if task.predicts
        }
        """The tasks by name, without those that only train the model, such as masked language
        modelling."""
        self.task_types = tasks
        """The implementations of the tasks, those that predict nothing among them."""
        self.model = saved.model
        """The model: `mtlcli.models.multitask.MultiTaskModel`."""
        self.encoder = encoder
        """The tokenizer."""
        self.device = ranks.device
        """The device of the model."""
        self.batch_size, _ = evaluation_limits(config.runner.eval_batch_size, self.device)
        """The most inputs in a pass."""
        self._saved, self._ranks = saved, ranks
        # The tokenizer keeps settings from call to call, and the model the tasks of a pass.
        self._encoding, self._passing = threading.Lock(), threading.Lock()

    # --------------------------------------------------------------------------------------------
    # for users

    @overload
    def predict(
        self,
        inputs: Sequence[Row],
        task: str | None = None,
        *,
        on_fault: Callable[[int, Problem], None] | None = None,
    ) -> list[Any]:
        """Return the predictions of one task."""

    @overload
    def predict(
        self,
        inputs: Sequence[Row],
        task: list[str] | tuple[str, ...],
        *,
        on_fault: Callable[[int, Problem], None] | None = None,
    ) -> dict[str, list[Any]]:
        """Return the predictions of several tasks."""

    def predict(
        self,
        inputs: Sequence[Row],
        task: str | list[str] | tuple[str, ...] | None = None,
        *,
        on_fault: Callable[[int, Problem], None] | None = None,
    ) -> Any:
        """Return a prediction for each input, in order: a dictionary of one of the forms in
        `mtlcli.predict.results`.

        `inputs`: texts, for tasks on one text; tuples with the values of `tasks[NAME].columns`, for
        example (premise, hypothesis); or dictionaries with the values by column. `task`: the name
        of a task, which may be left out where the model has only one; for several names, the result
        is a dictionary with the predictions of each, and an input goes through layers that the
        tasks share only once. `on_fault`: a function that is called with the place in `inputs` and
        the reason of each input that cannot be read; its prediction is None. Without `on_fault`,
        such an input raises UserError.

        Raises UserError for a task that does not exist, and for inputs without a needed column;
        NotFinite when the model gives no finite numbers.
        """
        if isinstance(inputs, str | Mapping):
            raise TypeError("predict takes a list of inputs; put a single one into a list")
        names = self.names(task)
        if not inputs:
            return [] if isinstance(task, str | None) else {name: [] for name in names}
        encoded = self.read(inputs, names)
        for problems in encoded.faults.values():
            if problems and on_fault is None:
                raise UserError(problems.values())
            for place, problem in problems.items():
                assert on_fault is not None
                on_fault(place, problem)
        answers = self.answer(encoded)
        if isinstance(task, str | None):
            return answers[names[0]].predictions
        return {name: answers[name].predictions for name in names}

    @torch.no_grad()
    def encode(self, texts: Sequence[str], task: str | None = None) -> NDArray[np.float32]:
        """Return the vector of each text that the heads of tasks on whole texts read, the pooled
        state of the trunk: (texts, hidden).

        `task`: the task whose states are wanted. It may be left out where the sharing strategy
        gives all tasks the same states. Raises UserError when it may not, or a text is empty.
        """
        if isinstance(texts, str):
            raise TypeError("encode takes a list of texts; put a single one into a list")
        name = task if task is not None else self._any_task()
        if name not in self.task_types:
            raise UserError(
                f"the model has no task '{name}'", "task", suggest(name, self.task_types)
            )
        for number, text in enumerate(texts, start=1):
            if not isinstance(text, str) or not text.strip():
                raise UserError(
                    "the text is empty or missing", f"input, row {number}", "fill it in"
                )
        vectors = np.zeros((len(texts), self.model.hidden), np.float32)
        length = self.task_types[name].max_length
        with self._encoding:
            features = self.encoder.encode(list(texts), None, length)
        bf16 = self._saved.precision == "bf16"
        self.model.eval()
        for indices in evaluation_batches(
            features.lengths, batch_size=self.config.runner.eval_batch_size, device=self.device
        ):
            batch = collate(
                features, indices, input_format=self._saved.input_format, denominator=1.0
            ).to(self.device)
            with (
                self._passing,
                torch.inference_mode(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=bf16),
            ):
                vectors[indices] = self.model.encoded(name, batch).pooled.float().cpu().numpy()
        return vectors

    def passes(self, names: Sequence[str]) -> list[list[str]]:
        """Return some tasks in groups: the trunk gives the same tokens the same states for all
        tasks of a group, so that rows which they encode alike go through it once."""
        groups: list[list[str]] = []
        for name in names:
            group = next((each for each in groups if self.model.one_pass(each[0], name)), None)
            if group is None:
                groups.append([name])
            else:
                group.append(name)
        return groups

    # --------------------------------------------------------------------------------------------
    # for `mtl predict` and for servers

    def names(self, task: str | Sequence[str] | None) -> list[str]:
        """Return the names of the tasks that a caller asks for. Raises UserError when one of them
        does not exist or has no predictions, or none is named and the model has several."""
        if task is None:
            if len(self.tasks) != 1:
                raise UserError(
                    f"the model has {count_of(len(self.tasks), 'task')}, and none is named",
                    "task",
                    f"name one: {', '.join(self.tasks)}",
                )
            return list(self.tasks)
        names = [task] if isinstance(task, str) else list(dict.fromkeys(task))
        problems = []
        for name in names:
            if name in self.task_types and name not in self.tasks:
                what = (
                    f"task {name} only trains the model (type: {self.task_types[name].config.type})"
                )
                fix = (
                    f"its predictions say nothing about new rows; choices: {', '.join(self.tasks)}"
                )
                problems.append(Problem(what, "task", fix))
            elif name not in self.tasks:
                fix = suggest(name, self.tasks)
                problems.append(Problem(f"the model has no task '{name}'", "task", fix))
        if problems or not names:
            raise UserError(problems or [Problem("no task is named", "task", "name one")])
        return names

    def read(self, inputs: Sequence[Row], names: Sequence[str]) -> Encoded:
        """Check and encode inputs, in one of the forms of `predict`, for some tasks. Raises
        UserError when they lack a needed column, or one has another number of values."""
        tasks = [self.task_types[name] for name in names]
        table, faults = table_of(rows_of(inputs, tasks), tasks)
        return self.prepare(table, names, faults)

    def prepare(
        self, table: Table, names: Sequence[str], faults: Mapping[int, Problem] | None = None
    ) -> Encoded:
        """Check the rows of a table and encode those that can be read, for some tasks, whose
        columns are known to be there. `faults`: what is known about rows that cannot be read."""
        done = Encoded({}, {})
        with self._encoding:
            once = _Once(self.encoder)
            for name in names:
                rows = TaskRows(self.task_types[name], table, faults or {})
                done.rows[name] = rows
                if len(rows.table):
                    done.features[name] = encoded(rows.table, self.task_types[name], once)
        return done

    def answer(self, inputs: Encoded) -> dict[str, Answers]:
        """Return the predictions of each task. An evaluation of the same rows gives the same."""
        return self.answer_together([inputs])[0]

    def answer_together(
        self, inputs: Sequence[Encoded], on_batch: Callable[[], None] = lambda: None
    ) -> list[dict[str, Answers]]:
        """Return the predictions of each task for several inputs, whose rows share batches. The
        last digits may differ from those of each input by itself, as padding does. `on_batch`:
        function that is called before each batch; what it raises ends the passes."""
        features: dict[str, Features] = {}
        for name in dict.fromkeys(name for each in inputs for name in each.features):
            there = [each.features[name] for each in inputs if name in each.features]
            features[name] = joined(there)
        outputs: dict[str, Outputs] = {}
        for group in self.groups(features):
            with self._passing:
                outputs |= outputs_together(
                    self.model,
                    {name: features[name] for name in group},
                    batch_size=self.config.runner.eval_batch_size,
                    input_format=self._saved.input_format,
                    bf16=self._saved.precision == "bf16",
                    ranks=self._ranks,
                    on_batch=on_batch,
                    what="predicting",
                )
        begins = dict.fromkeys(features, 0)
        answers = []
        for each in inputs:
            own = {}
            for name, found in each.features.items():
                task = self.task_types[name]
                end = begins[name] + (int(found.offsets[-1]) if task.token_outputs else len(found))
                own[name] = {
                    key: values if key in task.constant_outputs else values[begins[name] : end]
                    for key, values in outputs[name].items()
                }
                begins[name] = end
            answers.append(self._decoded(each, own))
        return answers

    def _decoded(self, inputs: Encoded, outputs: dict[str, Outputs]) -> dict[str, Answers]:
        """Return the predictions that the outputs of each task stand for."""
        answers: dict[str, Answers] = {}
        for name, rows in inputs.rows.items():
            predictions: list[Any] = [None] * (len(rows.places) + len(rows.faults))
            if name in outputs:
                # Tasks that write text use the tokenizer to do so.
                with self._encoding:
                    found = self.task_types[name].decode(
                        outputs[name], inputs.features[name], rows.table
                    )
                described = rows.described(found)
                for place, prediction in zip(rows.places.tolist(), described, strict=True):
                    predictions[place] = prediction
            answers[name] = Answers(predictions, rows.faults)
        return answers

    def groups(self, features: Mapping[str, Features]) -> list[list[str]]:
        """Return the tasks in groups whose features go through the trunk together: `passes`, where
        the tokens are the same."""
        groups: list[list[str]] = []
        for names in self.passes(list(features)):
            there: list[list[str]] = []
            for name in names:
                same = (each for each in there if _alike(features[each[0]], features[name]))
                group = next(same, None)
                if group is None:
                    there.append([name])
                else:
                    group.append(name)
            groups += there
        return groups

    def _any_task(self) -> str:
        first, *others = self.task_types
        for other in others:
            if not self.model.trunk.same_for(first, other):
                raise UserError(
                    f"sharing={self.config.sharing.name} gives each task states of its own",
                    "task",
                    f"name a task: {', '.join(self.task_types)}",
                )
        return first


class _Once(TextEncoder):
    """A tokenizer that encodes the same texts only once for several tasks that read them."""

    def __init__(self, encoder: TextEncoder) -> None:
        vars(self).update(vars(encoder))
        self._last: tuple[tuple[list[str], list[str] | None, int], Features] | None = None

    def encode(self, texts: list[str], pairs: list[str] | None, max_length: int) -> Features:
        """Return the features of texts: see `TextEncoder.encode`."""
        given = (texts, pairs, self.limit(max_length))
        if self._last is None or self._last[0] != given:
            self._last = given, super().encode(texts, pairs, max_length)
        found = self._last[1]
        # A task adds columns of its own.
        return replace(found, columns=dict(found.columns), notes=dict(found.notes))


def _alike(one: Features, other: Features) -> bool:
    """Return whether two tasks have encoded the same tokens."""
    return all(
        first is second or np.array_equal(first, second)
        for first, second in (
            (one.offsets, other.offsets),
            (one.ids, other.ids),
            (one.segments, other.segments),
        )
    )


def _info(task: TaskType[Any]) -> TaskInfo:
    labels = getattr((task.head_owner or task).config, "labels", None)
    own = id_column(task)
    return TaskInfo(
        name=task.name,
        type=task.config.type,
        columns=tuple(input_columns(task)),
        optional=() if own is None else (own,),
        holds=task.column_contents,
        labels=None if labels is None else tuple(labels),
        max_length=task.max_length,
    )
