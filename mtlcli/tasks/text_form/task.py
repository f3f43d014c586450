"""A task in the form of text: its rows are prompts, and its labels are answers of a language model.

McCann et al. 2018 (decaNLP), Raffel et al. 2020 (T5); templates with several wordings: Sanh et al.
2022 (T0), Wei et al. 2022 (FLAN). Prompt and answer are one sequence for a decoder-only model, and
the loss is that of the answer alone. Labels, checks of rows, metrics and references are those of
the task itself, which this form is put around.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtlcli.config.run import Text
from mtlcli.config.task import Task, Template
from mtlcli.data.features import NO_TARGET, VARIANT, Features, Sequences
from mtlcli.data.table import Table
from mtlcli.errors import Problem, UserError
from mtlcli.tasks.answers import NO_CHOICE, Choices, FreeText, Options
from mtlcli.tasks.base import Encoded, Inference, LibraryHead, Outputs, TaskType
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


@dataclass
class _Encoded:
    """The rows of a table with one prompt."""

    rows: list[list[tuple[NDArray, NDArray]]]
    """For each row the token ids of the prompt and of an answer, once for each answer."""
    cut: int
    """The number of prompts that were cut."""
    answers_cut: int
    """The number of answers that were cut."""


class TextForm(TaskType[Task]):
    """A task of any type that has answers, as prompt and answer."""

    answers_in_text = True
    item = "token of an answer"

    def __init__(self, inner: TaskType[Any], text: Text) -> None:
        """`inner`: the task. `text`: how the language model answers."""
        self.inner, self.text = inner, text
        self.name = inner.name
        vars(self)["example"] = inner.example
        vars(self)["unit"] = inner.unit
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

    @property
    def column_contents(self) -> dict[str, str]:
        return self.inner.column_contents

    def required_columns(self, *, labelled: bool = True) -> list[str]:
        return self.inner.required_columns(labelled=labelled)

    def has_input(self, table: Table) -> NDArray[np.bool_]:
        return self.inner.has_input(table)

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

    def references_of(self, rows: list[dict[str, Any]]) -> list[Any]:
        return self.inner.references_of(rows)

    def clusters(self, table: Table) -> list[Any] | None:
        return self.inner.clusters(table)

    def describe(self, gold: list[Any]) -> str:
        return self.inner.describe(gold)

    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        return self.inner.majority(references, metric, **rows)

    def row_inputs(self, metric: str, table: Table) -> dict[str, Any]:
        return self.inner.row_inputs(metric, table)

    # From here on it is that of a language model.

    @property
    def reads_tokens(self) -> bool:
        return True

    @cached_property
    def _answers(self) -> Choices | Options | FreeText:
        """The labels as answers, once they are known."""
        answers = self.inner.answers()
        assert answers is not None, "a task without a text form is refused beforehand"
        return answers

    @property
    def _templates(self) -> list[Template]:
        """The templates whose answers are used, of the task or of the task whose labels it
        uses."""
        owner = self.head_owner or self
        found: list[Template] = self.config.templates or owner.config.templates
        return found if self.text.templates == "all" else found[:1]

    @property
    def _prompts(self) -> list[Prompt]:
        # `auto` is settled once there is a model. Texts are read before that to train the tokenizer
        # of a model from scratch alone, which has the plain prompt.
        if self.text.templates in ("auto", "none") or not self._templates:
            return [Prompt.generic((self.head_owner or self).name, self.config.text_columns)]
        return [Prompt.read(template.prompt) for template in self._templates]

    @property
    def _labels(self) -> list[list[str]]:
        """The text of each label with each prompt; empty lists where labels are no answers."""
        if not isinstance(self._answers, Choices):
            return [[] for _ in self._prompts]
        given = [template.answers or {} for template in self._templates] or [{}]
        return [
            [texts.get(label, label.replace("_", " ")) for label in self._answers.labels]
            for texts in given
        ]

    def texts(self, table: Table) -> list[str]:
        """Return the first prompt of each row with its answer, and every template once with all
        answers, of which the rows may lack some."""
        first = self._prompts[0]
        columns = self._columns(first, table)
        answers = [" ".join(each) for each in self._answer_texts(table, self._labels[0])]
        whole = [
            f"{first.text({column: texts[row] for column, texts in columns.items()})} {answer}"
            for row, answer in enumerate(answers)
        ]
        return whole + [
            f"{prompt.text(dict.fromkeys(prompt.columns, ''))} {' '.join(labels)}"
            for prompt, labels in zip(self._prompts, self._labels, strict=True)
        ]

    def _columns(self, prompt: Prompt, table: Table) -> dict[str, list[str]]:
        """Return the texts of the columns that a prompt names."""
        names = dict.fromkeys(prompt.columns)
        return {column: self.inner.prompt_texts(table, column) for column in names}

    def _answer_texts(self, table: Table, labels: list[str]) -> list[list[str]]:
        """Return the answers of each row that features are made of: the right one, an empty text
        where there is none; where rows have answers of their own, all of them, but in training the
        right one alone."""
        if isinstance(self._answers, FreeText):
            return [[text or ""] for text in self._answers.texts(table)]
        if isinstance(self._answers, Options) and not self._trains(table):
            return self._answers.texts(table)
        choices = (
            self._answers.texts(table) if isinstance(self._answers, Options) else repeat(labels)
        )
        return [
            ["" if number == NO_CHOICE else row[number]]
            for number, row in zip(self._answers.targets(table).tolist(), choices, strict=False)
        ]

    def _trains(self, table: Table) -> bool:
        return table.split == self.config.splits.train

    @cached_property
    def longest_answer(self) -> int:
        """The most tokens of an answer that is no label."""
        if isinstance(self._answers, FreeText):
            return self.text.max_answer or self._answers.longest(self.max_length)
        return self.max_length // 2

    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        problems = self.inner.check(table, labelled=labelled)
        if problems or not self._trains(table):
            return problems
        # Labels that the config does not name are known now.
        return [*self.config.answer_problems(f"tasks.{self.name}", self.inner.classes)]

    def encoding_settings(self) -> dict[str, Any]:
        return self.inner.encoding_settings() | {
            "prompts": [prompt.pieces for prompt in self._prompts],
            "answers": self._labels,
            "longest": self.longest_answer,
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
        template, of other splits one for each row, or for each answer that the row has of its own.
        columns: `prompt`, the number of tokens before the answer; `answer_tokens`; `variant`, the
        number of the template, where there are several. notes: also `answers cut`."""
        count = len(self._prompts) if self._trains(table) else 1
        made = [
            self._sequences(table, encoder, prompt, labels)
            for prompt, labels in zip(self._prompts[:count], self._labels[:count], strict=True)
        ]
        by_row = [
            [pair for variant in variants for pair in variant]
            for variants in zip(*(each.rows for each in made), strict=True)
        ]
        rows = [pair for pairs in by_row for pair in pairs]
        ids = [np.concatenate(pair) for pair in rows]
        prompts = np.array([len(prompt) for prompt, _ in rows], np.int64)
        answers = np.array([len(answer) for _, answer in rows], np.int64)
        columns = {
            "row": np.repeat(np.arange(len(table), dtype=np.int64), list(map(len, by_row))),
            PROMPT: prompts,
            "answer_tokens": answers,
        }
        if count > 1:
            columns[VARIANT] = np.tile(np.arange(count), len(table))
        notes = {"truncated": made[0].cut, "answers cut": made[0].answers_cut}
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
    ) -> _Encoded:
        """Return prompt and answers of each row as token ids."""
        texts = self._answer_texts(table, labels)
        distinct = list(dict.fromkeys([*labels, *(text for row in texts for text in row)]))
        whole = dict(zip(distinct, answer_tokens(distinct, encoder), strict=True))
        most = max(len(whole[label]) for label in labels) if labels else self.longest_answer
        tokens = {
            text: ids if len(ids) <= most else np.append(ids[: most - 1], ids[-1:])
            for text, ids in whole.items()
        }
        # An encoder-decoder has the answer in its decoder.
        behind = encoder.after if self._has_decoder else encoder.after[:0]
        if self._has_decoder:
            taken = [len(behind)] * len(table)
        elif isinstance(self._answers, Options):
            options = self._answers.texts(table)
            known = answer_tokens(list(chain.from_iterable(options)), encoder)
            taken = [min(most, max(map(len, each))) for each in _split(known, map(len, options))]
        else:  # What will be generated is as long as that, whatever the right answer.
            taken = [most] * len(table)
        limit = encoder.limit(self.max_length) - len(encoder.before)
        if limit - max(taken, default=0) < FEWEST:
            raise UserError(
                f"an answer of {max(taken)} tokens leaves no room for the prompt of task "
                f"'{self.name}' in {encoder.limit(self.max_length)}",
                f"tasks.{self.name}.max_length",
                "raise it, or lower text.max_answer",
            )
        found = _Encoded([], 0, sum(len(whole[text]) > most for row in texts for text in row))
        prompts = prompt_tokens(
            prompt, self._columns(prompt, table), encoder, [limit - each for each in taken]
        )
        for row, (ids, cut) in zip(texts, prompts, strict=True):
            found.cut += cut
            before = np.concatenate([encoder.before, ids, behind])
            found.rows.append([(before, tokens[text] if text else ids[:0]) for text in row])
        return found

    def note(self, what: str, table: Table, features: Features) -> Problem | None:
        if what != "answers cut":
            return None
        count = features.notes[what]
        text = (
            f"{count:,} of {len(features):,} answers {'is' if count == 1 else 'are'} cut to "
            f"{self.longest_answer} tokens"
        )
        key = "text.max_answer"
        if isinstance(self._answers, Options):
            key = f"tasks.{self.name}.max_length"
        return Problem(
            text, table.origin, f"raise {key} if what is cut off matters", f"{table.split}: {text}"
        )

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        """Return a module without parameters: the language head is the backbone's."""
        from torch import nn

        return nn.Module()

    def library_head(self) -> LibraryHead | str:
        """Return the language model itself, with what stands before and after an answer."""
        limits = [f"The prompt is: {self._prompts[0].template!r}."]
        if not self._generates:
            limits.append(f"mtl scores these answers: {', '.join(map(repr, self._labels[0]))}.")
        kind = "Seq2SeqLM" if self._has_decoder else "CausalLM"
        return LibraryHead(kind, (), None, tuple(limits))

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
        return isinstance(self._answers, FreeText) or (
            isinstance(self._answers, Choices) and self.text.predict == "generated"
        )

    def infer(self, head: nn.Module, model: Inference, batch: Batch) -> dict[str, Tensor]:
        """Return `scores` (batch, answers), which are like log likelihoods; where rows have answers
        of their own, that of each feature's answer as `score` (batch,); or, where answers are
        generated, their tokens as `ids` (batch, most tokens)."""
        from mtlcli.tasks.text_form.scoring import log_likelihoods, single

        if self._generates:
            return {"ids": self._generated(model, batch)}
        if isinstance(self._answers, Options):
            return {"score": self._own_scores(model, batch)}
        scored = without_ends(self.choices)
        scores = log_likelihoods(model.encode, batch, scored)
        if self.text.predict == "normalised":
            scores = scores / scores.new_tensor([len(each) for each in scored])
        elif self.text.predict == "calibrated":
            scores = scores - log_likelihoods(model.encode, single(self._empty, batch), scored)
        return {"scores": scores}

    def _own_scores(self, model: Inference, batch: Batch) -> Tensor:
        """Return the score of each feature's own answer, its end included: (batch,) fp32."""
        from mtlcli.tasks.text_form.scoring import behind, log_likelihood_of_targets

        scores = log_likelihood_of_targets(model.encode(batch), batch)
        if self.text.predict == "normalised":
            scores = scores / batch.columns["answer_tokens"]
        elif self.text.predict == "calibrated":
            without = behind(self._empty, batch)
            scores = scores - log_likelihood_of_targets(model.encode(without), without)
        return scores

    def _generated(self, model: Inference, batch: Batch) -> Tensor:
        """Return the tokens of the answers that are generated: (batch, most tokens)."""
        from mtlcli.tasks.decoder import Writing
        from mtlcli.tasks.drawing import Drawing
        from mtlcli.tasks.text_form.scoring import continued

        text = self.text
        most = max(map(len, self.choices), default=self.longest_answer)
        allowed = self._allowed if self.choices else None
        drawing = (
            Drawing(
                batch.columns["row"].tolist(),
                seed=text.seed,
                temperature=text.temperature,
                top_p=text.top_p,
            )
            if text.sample
            else None
        )
        if self._has_decoder:
            encoded = model.encode(batch)
            assert encoded.decoder is not None
            return encoded.decoder.generate(
                encoded, Writing(most, text.beams), allowed=allowed, drawing=drawing
            )
        return model.generate(
            continued(batch, []),
            most=most,
            beams=text.beams,
            end=self._end,
            allowed=allowed,
            drawing=drawing,
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
        if "score" in outputs:
            return self._decode_own(outputs["score"], features, table)
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
        assert self.encoder is not None and isinstance(self._answers, FreeText)
        texts = self.encoder.texts_of([ids.tolist() for ids in answers])
        return self._answers.from_texts(texts, table)

    def _decode_own(self, scores: NDArray, features: Features, table: Table) -> list[Any]:
        """Return one prediction per row from the score of each of its own answers (features,)."""
        assert isinstance(self._answers, Options)
        require_finite(self.name, scores)
        if self._trains(table):
            raise UserError(
                "training in the form of text encodes the right answer of each row alone, so that "
                f"nothing can be chosen on split '{table.split}'",
                f"tasks.{self.name}",
                "evaluate another split",
            )
        sizes = np.bincount(features.columns["row"], minlength=len(table))
        of_rows = np.split(scores, np.cumsum(sizes)[:-1]) if len(table) else []
        return self._answers.from_scores(of_rows, table)

    def _until_end(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        ends = np.flatnonzero((ids == self._end) | (ids == NO_TARGET))
        return ids[: ends[0]] if len(ends) else ids


def _split(values: Sequence[NDArray], sizes: Iterable[int]) -> list[list[NDArray]]:
    """Return values in lists of these sizes, one after another."""
    left = iter(values)
    return [list(islice(left, size)) for size in sizes]
