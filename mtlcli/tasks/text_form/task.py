"""A task in the form of text: its rows are prompts, and its labels are answers of a language model.

McCann et al. 2018 (decaNLP), Raffel et al. 2020 (T5); templates with several wordings: Sanh et al.
2022 (T0), Wei et al. 2022 (FLAN). Prompt and answer are one sequence for a decoder-only model, and
the loss is that of the answer alone. Labels, checks of rows, metrics and references are those of
the task itself, which this form is put around.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtlcli.config.run import Text
from mtlcli.config.task import Task, Template
from mtlcli.data.features import NO_TARGET, VARIANT, Features, Sequences
from mtlcli.data.table import Table
from mtlcli.errors import Problem, UserError
from mtlcli.tasks.answers import NO_CHOICE, Choices, FreeText
from mtlcli.tasks.base import Encoded, Inference, Outputs, TaskType
from mtlcli.tasks.checks import require_finite
from mtlcli.tasks.text_form.prompts import (
    FEWEST,
    PROMPT,
    TARGET,
    Prompt,
    answer_tokens,
    offsets_of,
    prompt_tokens,
    without_ends,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder


class TextForm(TaskType[Task]):
    """A task of any type that has answers, as prompt and answer."""

    answers_in_text = True
    item = "token of an answer"

    def __init__(self, inner: TaskType[Any], text: Text) -> None:
        """`inner`: the task. `text`: how the language model answers."""
        self.inner, self.text = inner, text
        self.name = inner.name
        vars(self)["example"] = inner.example
        self.encoder = None
        self.choices: list[list[int]] = []
        self._empty: list[int] = []
        self._has_decoder = False

    # What follows is the task's own.

    @property
    def config(self) -> Any:
        """The config of the task."""
        return self.inner.config

    @config.setter
    def config(self, config: Any) -> None:
        """Change the config of the task."""
        self.inner.config = config

    @property
    def head_owner(self) -> TaskType[Any] | None:
        """The task whose labels this task uses, or None."""
        return self.inner.head_owner

    @head_owner.setter
    def head_owner(self, owner: TaskType[Any] | None) -> None:
        """Set the task whose labels this task uses."""
        self.inner.head_owner = owner

    @property
    def default_metrics(self) -> list[str]:
        return self.inner.default_metrics

    @property
    def classes(self) -> Sequence[str]:
        return self.inner.classes

    def required_columns(self, *, labelled: bool = True) -> list[str]:
        return self.inner.required_columns(labelled=labelled)

    def prepare(self, train: Table | None, others: Sequence[Table] = ()) -> None:
        self.inner.prepare(train, others)

    def labelled(self, table: Table) -> NDArray[np.bool_]:
        return self.inner.labelled(table)

    def doubts(self, train: Table) -> list[Problem]:
        return self.inner.doubts(train)

    def targets(self, table: Table) -> NDArray | None:
        return self.inner.targets(table)

    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        return self.inner.metric_inputs(metric, predictions)

    def official_files(self, predictions: list[Any]) -> dict[str, Any]:
        return self.inner.official_files(predictions)

    def references(self, table: Table) -> list[Any] | None:
        return self.inner.references(table)

    def gold(self, table: Table) -> list[Any]:
        return self.inner.gold(table)

    def describe(self, gold: list[Any]) -> str:
        return self.inner.describe(gold)

    def majority(self, references: list[Any], metric: str) -> float:
        return self.inner.majority(references, metric)

    # From here on it is that of a language model.

    @property
    def reads_tokens(self) -> bool:
        return True

    @cached_property
    def _answers(self) -> Choices | FreeText:
        """The labels as answers, once they are known."""
        answers = self.inner.answers()
        assert answers is not None, "a task without a text form is refused beforehand"
        return answers

    @property
    def _templates(self) -> list[Template]:
        """The templates of the task, or of the task whose labels it uses."""
        owner = self.head_owner or self
        found: list[Template] = self.config.templates or owner.config.templates
        return found

    @property
    def _prompts(self) -> list[Prompt]:
        name = (self.head_owner or self).name
        return [Prompt.read(template.prompt) for template in self._templates] or [
            Prompt.generic(name, self.config.text_columns)
        ]

    @property
    def _labels(self) -> list[list[str]]:
        """The text of each label with each prompt; empty lists where any text is an answer."""
        if not isinstance(self._answers, Choices):
            return [[] for _ in self._prompts]
        given = [template.answers or {} for template in self._templates] or [{}]
        return [
            [texts.get(label, label.replace("_", " ")) for label in self._answers.labels]
            for texts in given
        ]

    def texts(self, table: Table) -> list[str]:
        """Return the first prompt of each row with its answer, and every other template once."""
        first, *others = self._prompts
        columns = {column: table.column(column) for column in first.columns}
        answers = self._answer_texts(table, self._labels[0])
        whole = [
            f"{first.text({column: texts[row] for column, texts in columns.items()})} {answer}"
            for row, answer in enumerate(answers)
        ]
        return whole + [
            f"{prompt.text(dict.fromkeys(prompt.columns, ''))} {' '.join(labels)}"
            for prompt, labels in zip(others, self._labels[1:], strict=True)
        ]

    def _answer_texts(self, table: Table, labels: list[str]) -> list[str]:
        """Return the answer of each row, an empty text where there is none."""
        if isinstance(self._answers, FreeText):
            return [text or "" for text in self._answers.texts(table)]
        return [
            "" if number == NO_CHOICE else labels[number]
            for number in self._answers.targets(table).tolist()
        ]

    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        problems = self.inner.check(table, labelled=labelled)
        if problems or table.split != self.config.splits.train:
            return problems
        # Labels that the config does not name are known now.
        return [*self.config.answer_problems(f"tasks.{self.name}", self.inner.classes)]

    def encoding_settings(self) -> dict[str, Any]:
        return self.inner.encoding_settings() | {
            "prompts": [prompt.pieces for prompt in self._prompts],
            "answers": self._labels,
            "max_answer": self.text.max_answer,
        }

    def use(self, encoder: TextEncoder, *, has_decoder: bool) -> list[Problem]:
        super().use(encoder, has_decoder=has_decoder)
        self._has_decoder = has_decoder
        self.choices = [each.tolist() for each in answer_tokens(self._labels[0], encoder)]
        first = self._prompts[0]
        empty = encoder.only(first.text(dict.fromkeys(first.columns, "")))
        self._empty = [*encoder.before.tolist(), *empty.tolist()]
        self._empty += encoder.after.tolist() if has_decoder else []
        return self._alike()

    def _alike(self) -> list[Problem]:
        """Return the problem of two answers that are the same tokens, so that nothing could choose
        between them."""
        seen: dict[tuple[int, ...], str] = {}
        for label, tokens in zip(self._labels[0], self.choices, strict=True):
            if (other := seen.setdefault(tuple(tokens), label)) is not label:
                what = f"the answers '{other}' and '{label}' are the same tokens to the tokenizer"
                fix = "give the labels other answers, or choose another model"
                return [Problem(what, f"tasks.{self.name}.templates", fix)]
        return []

    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        """Return the features of prompts and answers: of the train split one for each row and
        template, of other splits one for each row. columns: `prompt`, the number of tokens before
        the answer; `answer_tokens`; `variant`, the number of the template, where there are
        several."""
        trained = table.split == self.config.splits.train
        count = len(self._prompts) if trained else 1
        made = [
            self._sequences(table, encoder, prompt, labels)
            for prompt, labels in zip(self._prompts[:count], self._labels[:count], strict=True)
        ]
        by_row = zip(*(parts for parts, _ in made), strict=True)
        rows = [each for variants in by_row for each in variants]
        ids = [np.concatenate(pair) for pair in rows]
        prompts = np.array([len(prompt) for prompt, _ in rows], np.int64)
        answers = np.array([len(answer) for _, answer in rows], np.int64)
        columns = {
            "row": np.repeat(np.arange(len(table), dtype=np.int64), count),
            PROMPT: prompts,
            "answer_tokens": answers,
        }
        if count > 1:
            columns[VARIANT] = np.tile(np.arange(count), len(table))
        notes = {"truncated": made[0][1] if made else 0}
        if self._has_decoder:
            nothing = encoder.before[:0]
            written = np.concatenate([nothing, *(answer for _, answer in rows)])
            return Features(
                ids=np.concatenate([nothing, *(prompt for prompt, _ in rows)]),
                offsets=offsets_of(prompts),
                segments=prompts.astype(np.int32),
                columns=columns,
                sequences={TARGET: Sequences(written, offsets_of(answers))},
                notes=notes,
            )
        offsets = offsets_of(prompts + answers)
        flat = np.concatenate(ids) if ids else encoder.before[:0]
        # The token before each token of an answer has that one as its target.
        place = np.arange(len(flat)) - np.repeat(offsets[:-1] + prompts, prompts + answers)
        before = np.repeat(answers, prompts + answers) > place + 1
        targets = np.where((place >= -1) & before, np.roll(flat.astype(np.int64), -1), NO_TARGET)
        return Features(
            ids=flat,
            offsets=offsets,
            segments=(prompts + answers).astype(np.int32),
            columns=columns,
            token_targets={TARGET: targets},
            notes=notes,
        )

    def _sequences(
        self, table: Table, encoder: TextEncoder, prompt: Prompt, labels: list[str]
    ) -> tuple[list[tuple[NDArray, NDArray]], int]:
        """Return prompt and answer of each row as token ids, and how many prompts were cut."""
        texts = self._answer_texts(table, labels)
        distinct = list(dict.fromkeys([*labels, *texts]))
        most = self.text.max_answer
        tokens = {
            text: ids if len(ids) <= most or labels else np.append(ids[: most - 1], ids[-1:])
            for text, ids in zip(distinct, answer_tokens(distinct, encoder), strict=True)
        }
        longest = max(len(tokens[label]) for label in labels) if labels else most
        # An encoder-decoder has the answer in its decoder.
        behind = encoder.after if self._has_decoder else encoder.after[:0]
        taken = len(behind) if self._has_decoder else longest
        room = encoder.limit(self.max_length) - len(encoder.before) - taken
        if room < FEWEST:
            raise UserError(
                f"an answer of {longest} tokens leaves no room for the prompt of task "
                f"'{self.name}' in {encoder.limit(self.max_length)}",
                f"tasks.{self.name}.max_length",
                "raise it, or lower text.max_answer",
            )
        found, cut = [], 0
        for text, (ids, was_cut) in zip(
            texts, prompt_tokens(prompt, table, encoder, room), strict=True
        ):
            cut += was_cut
            answer = tokens[text] if text else ids[:0]
            found.append((np.concatenate([encoder.before, ids, behind]), answer))
        return found, cut

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        """Return a module without parameters: the language head is the backbone's."""
        from torch import nn

        return nn.Module()

    def outputs(self, head: nn.Module, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        """Return `log_likelihood` (batch,): that of each feature's own answer, in fp32."""
        from mtlcli.tasks.text_form.scoring import log_likelihood_of_targets

        return {"log_likelihood": log_likelihood_of_targets(encoded, batch)}

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the summed cross entropy of the tokens of the answers."""
        return -outputs["log_likelihood"].sum()

    def items(self, features: Features, indices: NDArray[np.int64]) -> float:
        return int(features.columns["answer_tokens"][indices].sum())

    @property
    def _end(self) -> int:
        assert self.encoder is not None
        return self.encoder.end_id

    @property
    def _generates(self) -> bool:
        return isinstance(self._answers, FreeText) or self.text.predict == "generated"

    def infer(self, head: nn.Module, model: Inference, batch: Batch) -> dict[str, Tensor]:
        """Return `scores` (batch, answers), which are like log likelihoods, or, where answers are
        generated, their tokens as `ids` (batch, most tokens)."""
        from mtlcli.tasks.text_form.scoring import log_likelihoods, single

        if self._generates:
            return {"ids": self._generated(model, batch)}
        scored = without_ends(self.choices)
        scores = log_likelihoods(model.encode, batch, scored)
        if self.text.predict == "normalised":
            scores = scores / scores.new_tensor([len(each) for each in scored])
        elif self.text.predict == "calibrated":
            scores = scores - log_likelihoods(model.encode, single(self._empty, batch), scored)
        return {"scores": scores}

    def _generated(self, model: Inference, batch: Batch) -> Tensor:
        """Return the tokens of the answers that are generated: (batch, most tokens)."""
        from mtlcli.tasks.decoder import Writing
        from mtlcli.tasks.text_form.scoring import continued

        most = max(map(len, self.choices), default=self.text.max_answer)
        beams, allowed = self.text.beams, self._allowed if self.choices else None
        if self._has_decoder:
            encoded = model.encode(batch)
            assert encoded.decoder is not None
            return encoded.decoder.generate(encoded, Writing(most, beams), allowed=allowed)
        return model.generate(
            continued(batch, []), most=most, beams=beams, end=self._end, allowed=allowed
        )

    def _allowed(self, begun: list[int]) -> list[int]:
        """Return the tokens that go on with one of the answers. `begun`: the answer so far."""
        count = len(begun)
        found = {
            each[count] for each in self.choices if len(each) > count and each[:count] == begun
        }
        return sorted(found) or [self._end]

    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """Return one prediction per row, in the form of the task's own."""
        variant = features.columns.get(VARIANT)
        first = slice(None) if variant is None else variant == 0
        if "scores" in outputs:
            scores = outputs["scores"][first]
            require_finite(self.name, scores)
            assert isinstance(self._answers, Choices)
            return self._answers.from_scores(scores)
        answers = [self._until_end(row) for row in outputs["ids"][first].astype(np.int64)]
        if isinstance(self._answers, Choices):
            numbers = {tuple(each[:-1]): number for number, each in enumerate(self.choices)}
            return self._answers.from_numbers([numbers[tuple(ids.tolist())] for ids in answers])
        assert self.encoder is not None
        texts = self.encoder.texts_of([ids.tolist() for ids in answers])
        return self._answers.from_texts(texts, table)

    def _until_end(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        ends = np.flatnonzero((ids == self._end) | (ids == NO_TARGET))
        return ids[: ends[0]] if len(ends) else ids
