"""Sequence to sequence: a text is written for a text (translation, summaries, ...).

The loss is the cross entropy of the target's tokens, each given those before it (teacher forcing);
predictions are written token by token.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtlcli.data.features import NO_TARGET, Features
from mtlcli.data.table import Table
from mtlcli.errors import Problem
from mtlcli.metrics import compute, main_key
from mtlcli.tasks.base import Encoded, Foundation, LibraryHead, Outputs, TaskType
from mtlcli.tasks.checks import counted, is_text, text_problems, wrong_type
from mtlcli.tasks.seq2seq import DECODER, Seq2SeqTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder
    from mtlcli.tasks.seq2seq.answers import TargetAnswers

LAYERS = 2
"""Number of layers of a decoder from scratch."""


class Seq2Seq(TaskType[Seq2SeqTask]):
    """A task whose label is a text, which its head writes. A row without a target has null or
    nothing but white space there."""

    item = "token"
    example = (["a dog barks"], ["the dog barks"])

    @property
    def default_metrics(self) -> list[str]:
        return ["bleu", "chrf"]

    @property
    def reads_tokens(self) -> bool:
        return True

    def use(self, encoder: TextEncoder, *, has_decoder: bool) -> list[Problem]:
        self.encoder = encoder
        if not has_decoder:
            return []
        at, config, most = f"tasks.{self.name}", self.config, encoder.model_max_length
        problems = [
            Problem(
                "has no effect: the model has a decoder of its own",
                f"{at}.{key}",
                "leave it out, or choose a model that is an encoder alone",
            )
            for key in DECODER
            if getattr(config, key) is not None
        ]
        for key in ("max_target_length", "max_new_tokens"):
            length = getattr(config, key)
            if most is not None and length is not None and length > most:
                what = f"{at}.{key}={length}, but the model takes {most} tokens"
                problems.append(Problem(what, f"{at}.{key}", f"type {at}.{key}={most}"))
        return problems

    def required_columns(self, *, labelled: bool = True) -> list[str]:
        columns = self.config.columns
        return [columns.text, columns.target] if labelled else [columns.text]

    def texts(self, table: Table) -> list[str]:
        return [
            *self._inputs(table),
            *(text for text in self._targets(table) if text is not None),
        ]

    def _inputs(self, table: Table) -> list[str]:
        return [self.config.prefix + text for text in table.column(self.config.columns.text)]

    def _targets(self, table: Table) -> list[str | None]:
        """Return the target of each row, None where there is none."""
        column = self.config.columns.target
        if column not in table.rows.column_names or not is_text(table.rows.column(column).type):
            return [None] * len(table)
        return [text if text and text.strip() else None for text in table.column(column)]

    def labelled(self, table: Table) -> NDArray[np.bool_]:
        column = self.config.columns.target
        if column not in table.rows.column_names or not is_text(table.rows.column(column).type):
            return np.ones(len(table), bool)
        return np.array([text is not None for text in self._targets(table)], bool)

    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        columns = self.config.columns
        problems = text_problems(table, [columns.text])
        if columns.target not in table.rows.column_names:
            return problems
        values = table.rows.column(columns.target)
        missing = [row for row, text in enumerate(self._targets(table)) if text is None]
        name = f"tasks.{self.name}.columns.target"
        if not is_text(values.type) and values.null_count < len(table):
            fix = f"name a column of text in {name}, or write it as text"
            problems.append(wrong_type(table, columns.target, "text is needed", fix))
        elif labelled and len(missing) == len(table):
            what = f"column '{columns.target}' has no text in any of the {len(table):,} rows"
            fix = f"name the column with the texts that are to be written in {name}"
            problems.append(Problem(what, table.origin, fix))
        elif missing and (labelled or len(missing) < len(table)) and not self._skips:
            what = f"column '{columns.target}' is empty or missing"
            fix = f"fill it in, or leave the row out: {self._skip}"
            problems.append(counted(table, missing, what, fix))
        return problems

    def answers(self) -> TargetAnswers:
        from mtlcli.tasks.seq2seq.answers import TargetAnswers

        return TargetAnswers(self)

    def prompt_texts(self, table: Table, column: str) -> list[str]:
        return self._inputs(table)

    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        """Return a feature for each row. sequences: `target`, the tokens of the target, of which a
        row without one has none. notes: also `targets cut`."""
        features = encoder.encode(self._inputs(table), None, self.max_length)
        features.sequences["target"], features.notes["targets cut"] = encoder.targets(
            self._targets(table), self.config.max_target_length
        )
        return features

    def note(self, what: str, table: Table, features: Features) -> Problem | None:
        if what != "targets cut":
            return None
        key, count = f"tasks.{self.name}.max_target_length", features.notes[what]
        text = (
            f"{count:,} of {len(features):,} targets {'is' if count == 1 else 'are'} cut to "
            f"{self.config.max_target_length} tokens"
        )
        fix = f"raise {key} if what is cut off matters"
        return Problem(text, table.origin, fix, f"{table.split}: {text}")

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        raise NotImplementedError("a decoder takes more from the backbone: see `head_on`")

    def head_on(self, foundation: Foundation) -> nn.Module:
        """Return the model's own decoder if it has one, else a decoder from scratch."""
        from mtlcli.tasks.decoder import DecoderHead, scratch_decoder

        assert self.encoder is not None, "a task has its tokenizer before its head is built"
        config = self.config
        network = (
            foundation.decoder()
            if foundation.decoder is not None
            else scratch_decoder(
                foundation,
                layers=config.decoder_layers or LAYERS,
                heads=config.decoder_heads,
                width=config.decoder_width,
                longest=config.longest,
            )
        )
        return DecoderHead(
            network,
            start_id=self.encoder.start_id,
            end_id=self.encoder.end_id,
            pad_id=self.encoder.pad_id,
        )

    def library_head(self) -> LibraryHead | str:
        return LibraryHead("Seq2SeqLM")

    def outputs(self, head: nn.Module, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        """Return `logits`: (batch, target length, vocabulary)."""
        return {"logits": head(encoded, batch.sequences["target"])}

    def predict(self, head: nn.Module, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        """Return `tokens`, the ids of the text that is written: (batch, most new tokens), -100
        after its end."""
        from mtlcli.tasks.decoder import DecoderHead, Writing

        assert isinstance(head, DecoderHead)
        config = self.config
        writing = Writing(
            max_new_tokens=config.max_new_tokens or config.max_target_length,
            beams=config.beams,
            length_penalty=config.length_penalty,
            sample=config.sample,
            temperature=config.temperature,
            top_p=config.top_p,
        )
        # A batch holds the same rows in each evaluation of a split, on whatever rank.
        return {"tokens": head.generate(encoded, writing, seed=int(batch.indices[0]))}

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the cross entropy, summed over the target tokens of the batch."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(
            outputs["logits"].float().flatten(0, 1),
            batch.sequences["target"].flatten(),
            ignore_index=NO_TARGET,
            reduction="sum",
            label_smoothing=self.config.label_smoothing,
        )

    def items(self, features: Features, indices: NDArray[np.int64]) -> int:
        return int(features.sequences["target"].lengths[indices].sum())

    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """Return {"text": the text that was written} for each row."""
        assert self.encoder is not None
        tokens = outputs["tokens"].astype(np.int64)
        written = self.encoder.texts_of([row[row != NO_TARGET].tolist() for row in tokens])
        found = [""] * len(table)
        for row, text in zip(features.columns["row"].tolist(), written, strict=True):
            found[row] = text
        return [{"text": text} for text in found]

    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        return {"predictions": [prediction["text"] for prediction in predictions]}

    def references(self, table: Table) -> list[Any] | None:
        """Return the target of each row, or None when a row has none."""
        targets = self._targets(table)
        return None if None in targets else targets

    def gold(self, table: Table) -> list[Any]:
        """Return the target of each row, or None for a row without one."""
        return list(self._targets(table))

    def describe(self, gold: list[Any]) -> str:
        """Return the mean and the largest number of words of the targets."""
        words = [len(text.split()) for text in gold]
        return f"{sum(words) / len(words):.1f} words on average, {max(words):,} at most"

    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        """Return the score of writing the most frequent target for each row."""
        ((text, _),) = Counter(references).most_common(1)
        return compute(metric, [text] * len(references), references)[main_key(metric)]
