"""Multiple choice in the form of text: the likelihood of each row's own options, against a plain
loop over a language model of the transformers library."""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from mtlcli.config import Text
from mtlcli.config.task import Source, Template
from mtlcli.data.table import Table
from mtlcli.errors import UserError
from mtlcli.tasks.base import build_tasks
from mtlcli.tasks.choice import ChoiceColumns, ChoiceTask
from tests.text_tasks import World, library_model, text_files, text_model

ROWS = {
    "c": ["a man is red", "the sky", "blue is a fine colour of a very long sky"],
    "o": [["red", "blue or red", "not"], ["fine", "not right at all"], ["a", "sky"]],
    "label": [1, 0, -1],
}
Architecture = Literal["decoder", "encoder-decoder"]
ARCHITECTURES: tuple[Architecture, ...] = ("decoder", "encoder-decoder")


def world(predict: Any, architecture: Architecture, split: str = "validation") -> World:
    config = ChoiceTask(
        source=Source(path="x"),
        columns=ChoiceColumns(context="c", options="o"),
        templates=[Template(prompt="{c} is it {o} ?")],
        form="text",
        unlabelled="skip",
        max_length=24,
    )
    tasks = build_tasks({"toy": config}, Text(predict=predict, templates="all"))
    tables = {"toy": Table(pa.table(ROWS), "toy.jsonl", split)}
    files = text_files(architecture)
    encoder = files.encoder()
    tasks["toy"].use(encoder, has_decoder=files.has_decoder)
    features = {"toy": tasks["toy"].encode(tables["toy"], encoder)}
    return World(tasks, tables, features, files, encoder)


def looped(made: World, model: Any, prompt: list[int], answer: list[int]) -> float:
    """The log likelihood of an answer by the library's own model."""
    if made.files.has_decoder:
        backbone = model.trunk.backbone
        library: Any = AutoModelForSeq2SeqLM.from_config(backbone.network.config).eval()
        library.load_state_dict(backbone.decoder.network.state_dict(), strict=False)
        states = backbone.network(input_ids=torch.tensor([prompt])).last_hidden_state
        logits = library(
            encoder_outputs=(states,),
            decoder_input_ids=torch.tensor([[made.encoder.start_id, *answer[:-1]]]),
        ).logits[0]
    else:
        logits = library_model(model)(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 :]
    scores = logits[: len(answer)].log_softmax(-1)
    return float(scores[range(len(answer)), answer].sum())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("predict", ["likelihood", "normalised", "calibrated"])
def test_options_are_scored_as_by_a_plain_loop(predict: str, architecture: Architecture) -> None:
    made = world(predict, architecture)
    model = text_model(made)
    features, encoder = made.features["toy"], made.encoder
    assert features.columns["row"].tolist() == [0, 0, 0, 1, 1, 2, 2]
    with torch.no_grad():
        outputs = model.outputs("toy", made.batch("toy", range(len(features))))
        options = [option for row in ROWS["o"] for option in row]
        empty = encoder.only(" is it ?").tolist()
        expected = []
        for number, option in enumerate(options):
            ids = features.ids[features.offsets[number] : features.offsets[number + 1]].tolist()
            at = int(features.columns["prompt"][number])
            answer = [*encoder.only(option).tolist(), encoder.end_id]
            before = encoder.before.tolist()
            behind = encoder.after.tolist() if made.files.has_decoder else []
            score = looped(made, model, ids[:at], answer)
            if predict == "normalised":
                score /= len(answer)
            elif predict == "calibrated":
                score -= looped(made, model, [*before, *empty, *behind], answer)
            expected.append(score)
    assert outputs["score"].tolist() == pytest.approx(expected, abs=1e-5)
    rows = made.tasks["toy"].decode(
        {"score": outputs["score"].numpy()}, features, made.tables["toy"]
    )
    assert [row["text"] for row in rows] == [
        max(zip(each, options, strict=True))[1]
        for each, options in zip(
            (expected[:3], expected[3:5], expected[5:]), ROWS["o"], strict=True
        )
    ]


def test_training_reads_the_right_option_alone() -> None:
    made = world("likelihood", "decoder", "train")
    features = made.features["toy"]
    assert features.columns["row"].tolist() == [0, 1, 2]
    right = [len(made.encoder.only(text)) + 1 for text in ("blue or red", "fine")]
    assert features.columns["answer_tokens"].tolist() == [*right, 0]
    with pytest.raises(UserError, match="encodes the right answer of each row alone"):
        made.tasks["toy"].decode({"score": torch.zeros(3).numpy()}, features, made.tables["toy"])
