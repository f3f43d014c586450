"""Masked language modelling: find the tokens of a text that are hidden (Devlin et al. 2019).

A text is encoded once, and which of its tokens are hidden is drawn each time it is used: see
`Mlm.drawn`. Scores and the loss are computed at these places alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtlcli.data.features import NO_TARGET, Features
from mtlcli.data.table import Table
from mtlcli.data.tokenizer import MASK_TOKENS
from mtlcli.errors import Problem, UserError
from mtlcli.metrics import main_key
from mtlcli.tasks.base import Encoded, Foundation, LibraryHead, Outputs
from mtlcli.tasks.checks import require_finite, text_problems
from mtlcli.tasks.mlm import MlmTask
from mtlcli.tasks.texts import TextTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder

MASKED, RANDOM = 0.8, 0.1
"""Shares of the hidden tokens that become the mask token, and a random token."""
AT_ONCE = 1024
"""The most places for which the scores of the whole vocabulary are in memory at once, outside
training."""


class Mlm(TextTask[MlmTask]):
    """A task whose labels are tokens of its texts. A row without a text has null or nothing but
    white space there."""

    token_outputs = True
    predicts = False
    item = "hidden token"
    example = ([{"right": [1], "log_probability": [-0.1]}], ["a dog barks"])

    @property
    def default_metrics(self) -> list[str]:
        return ["masked_accuracy", "perplexity"]

    def use(self, encoder: TextEncoder, *, has_decoder: bool) -> list[Problem]:
        self.encoder = encoder
        if encoder.mask_id is not None:
            return self._word_problems(encoder)
        return [
            Problem(
                f"the task hides tokens (type: mlm), and the tokenizer of the model has no mask "
                f"token ({' or '.join(MASK_TOKENS)})",
                f"tasks.{self.name}",
                "choose a model that was trained so (model=bert, roberta, deberta, modernbert), or "
                "leave the task out",
            )
        ]

    def _word_problems(self, encoder: TextEncoder) -> list[Problem]:
        if not self.config.whole_words or encoder.continues is not None:
            return []
        what = "the tokenizer of the model does not tell which tokens begin a word"
        fix = "leave it out, or choose a model whose tokenizer does (model=bert, roberta, deberta)"
        return [Problem(what, f"tasks.{self.name}.whole_words", fix)]

    def required_columns(self, *, labelled: bool = True) -> list[str]:
        return self.input_columns

    def labelled(self, table: Table) -> NDArray[np.bool_]:
        return self.has_input(table)

    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        return text_problems(table, self.input_columns)

    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        """Return a feature for each row, or with `pieces` for each piece of it. columns:
        `ordinary`, the number of tokens that may be hidden. Raises UserError when there is none in
        the whole table."""
        if self.config.pieces:
            columns = (table.column(column) for column in self.input_columns)
            texts = [" ".join(parts) for parts in zip(*columns, strict=True)]
            features = encoder.in_pieces(texts, self.max_length)
        else:
            features = self.encode_texts(table, encoder)
        ordinary = np.append(0, np.cumsum(~np.isin(features.ids, encoder.special_ids)))
        features.columns["ordinary"] = np.diff(ordinary[features.offsets])
        if len(table) and not features.columns["ordinary"].any():
            raise UserError(
                "the texts have no token that could be hidden: the tokenizer knows none of them",
                table.origin,
                "choose a model of the language of the texts",
            )
        return features

    def drawn(self, batch: Batch, seed: tuple[int, ...]) -> Batch:
        """Return the batch with some tokens hidden. sequences: `places`, the positions of the
        hidden tokens in each text, in order, and `tokens`, their ids: (B, S) each, NO_TARGET in the
        padding.

        What is hidden in a text depends on the seed, the number and the tokens of the text, and on
        nothing else in the batch.
        """
        import torch

        assert self.encoder is not None and self.encoder.mask_id is not None
        special, mask_id = self.encoder.special_ids, self.encoder.mask_id
        ordinary = np.setdiff1d(np.arange(self.encoder.vocabulary_size), special)
        ids = batch.input_ids.numpy().copy()
        may = batch.attention_mask.numpy() & ~np.isin(ids, special)
        counts = self._counts(may.sum(1))
        dice = [np.random.default_rng((*seed, index)) for index in batch.indices.tolist()]
        hidden = [
            self._chosen(random, np.flatnonzero(may[row]), ids[row], int(counts[row]))
            for row, random in enumerate(dice)
        ]
        places = np.full((len(batch), max(map(len, hidden), default=0)), NO_TARGET, np.int64)
        tokens = places.copy()
        for row, (random, chosen) in enumerate(zip(dice, hidden, strict=True)):
            count = len(chosen)
            kinds, others = random.random(count), random.choice(ordinary, count)
            places[row, :count], tokens[row, :count] = chosen, ids[row, chosen]
            ids[row, chosen] = np.where(
                kinds < MASKED,
                mask_id,
                np.where(kinds < MASKED + RANDOM, others, ids[row, chosen]),
            )
        return replace(
            batch,
            input_ids=torch.from_numpy(ids),
            sequences={"places": torch.from_numpy(places), "tokens": torch.from_numpy(tokens)},
        )

    def _chosen(
        self,
        random: np.random.Generator,
        may: NDArray[np.int64],
        ids: NDArray[np.int64],
        count: int,
    ) -> NDArray[np.int64]:
        """Return the places that are hidden in a text, in order, some `count` of those that `may`
        be. `ids`: the token ids of the text."""
        if not self.config.whole_words or not len(may):
            return np.sort(random.permutation(may)[:count])
        assert self.encoder is not None and self.encoder.continues is not None
        # A token that goes on with no word, since a special token stands before it, begins one.
        begins = ~self.encoder.continues[ids[may]] | (np.diff(may, prepend=-2) != 1)
        starts = np.flatnonzero(begins)
        words = np.split(may, starts[1:])
        chosen: list[NDArray[np.int64]] = []
        left = count
        for number in random.permutation(len(words)):
            if not chosen or len(words[number]) <= left:
                chosen.append(words[number])
                left -= len(words[number])
            if left <= 0:
                break
        return np.sort(np.concatenate(chosen))

    def _counts(self, ordinary: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many tokens are hidden in texts with `ordinary` tokens each: (B,)."""
        wanted = np.maximum(1, np.rint(self.config.rate * ordinary))
        return np.minimum(wanted, ordinary).astype(np.int64)

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        raise NotImplementedError("the head takes the word embeddings: see `head_on`")

    def head_on(self, foundation: Foundation) -> nn.Module:
        from mtlcli.tasks.heads import MaskedHead

        return MaskedHead(foundation)

    def outputs(self, head: nn.Module, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        """Return `logits`: (batch, places, vocabulary)."""
        places = batch.sequences["places"].clamp(min=0).unsqueeze(2)
        states = encoded.hidden.gather(1, places.expand(-1, -1, encoded.hidden.shape[2]))
        return {"logits": head(states)}

    def predict(self, head: nn.Module, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        """Return for each token (batch, length): `log_probability` of the hidden token, 0 where
        none is hidden; `right`, 1 if the most probable token is the hidden one and else 0,
        NO_TARGET where none is hidden."""
        import torch

        rows, numbers = (batch.sequences["places"] != NO_TARGET).nonzero(as_tuple=True)
        places = batch.sequences["places"][rows, numbers]
        tokens = batch.sequences["tokens"][rows, numbers].unsqueeze(1)
        found = {
            "log_probability": torch.zeros(encoded.mask.shape, device=encoded.mask.device),
            "right": torch.full(encoded.mask.shape, float(NO_TARGET), device=encoded.mask.device),
        }
        for row, place, token in zip(
            rows.split(AT_ONCE), places.split(AT_ONCE), tokens.split(AT_ONCE), strict=True
        ):
            scores = head(encoded.hidden[row, place]).log_softmax(1)
            found["log_probability"][row, place] = scores.gather(1, token).squeeze(1)
            found["right"][row, place] = (scores.argmax(1) == token.squeeze(1)).float()
        return found

    def library_head(self) -> LibraryHead | str:
        return (
            "its head is there to train the backbone, and has an output layer and a norm of its "
            "own that masked language models of the transformers library do not have"
        )

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the cross entropy, summed over the hidden tokens of the batch."""
        from mtlcli.tasks.losses import class_loss

        return class_loss(outputs["logits"].flatten(0, 1), batch.sequences["tokens"].flatten())

    def items(self, features: Features, indices: NDArray[np.int64]) -> int:
        """Return the number of hidden tokens, which is the same in each draw; 1 for texts without a
        token that may be hidden, whose loss is 0."""
        return max(1, int(self._counts(features.columns["ordinary"][indices]).sum()))

    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """Return {"places", "right", "log_probability"} for each row: the positions of the hidden
        tokens in the encoded text, or in its pieces one after another, and for each whether the
        best guess is right (1 or 0) and the logarithm of the probability of the right token."""
        chances = outputs["log_probability"]
        require_finite(self.name, chances)
        rows = features.columns["row"]
        first = features.offsets[np.searchsorted(rows, np.arange(len(table)))]
        found: list[Any] = [
            {"places": [], "right": [], "log_probability": []} for _ in range(len(table))
        ]
        for index, row in enumerate(rows.tolist()):
            span = slice(features.offsets[index], features.offsets[index + 1])
            places = np.flatnonzero(outputs["right"][span] != NO_TARGET)
            found[row]["places"] += (places + span.start - first[row]).tolist()
            found[row]["right"] += outputs["right"][span][places].astype(int).tolist()
            found[row]["log_probability"] += chances[span][places].tolist()
        return found

    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        return {"predictions": predictions}

    def references(self, table: Table) -> list[Any] | None:
        """Return the text of each row, or None when a row has none."""
        texts = self.gold(table)
        return None if None in texts else texts

    def gold(self, table: Table) -> list[Any]:
        """Return the text of each row, in which tokens are hidden, or None for a row without
        one."""
        rows = zip(*(table.column(column) for column in self.input_columns), strict=True)
        return [
            " ".join(texts) if there else None
            for texts, there in zip(rows, self.has_input(table), strict=True)
        ]

    def describe(self, gold: list[Any]) -> str:
        """Return the mean and the largest number of words of the texts."""
        words = [len(text.split()) for text in gold]
        return f"{sum(words) / len(words):.1f} words on average, {max(words):,} at most"

    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        """Return the share of the most frequent token among those that may be hidden: what guessing
        it for each would score."""
        assert self.encoder is not None
        if main_key(metric) != "masked_accuracy":
            return 0.0
        counts = Counter(self._ordinary(references))
        return counts.most_common(1)[0][1] / counts.total()

    def _ordinary(self, texts: list[str]) -> Iterator[int]:
        """Yield all tokens of texts that may be hidden, with those that are cut off."""
        assert self.encoder is not None
        for ids, _, _ in (each for each in map(self.encoder.tokens(texts).get, texts) if each):
            yield from ids[~np.isin(ids, self.encoder.special_ids)].tolist()
