"""Tasks in the form of text: features, loss, scores of answers and generated answers, against the
transformers library's own language models and against passes without a cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from mtlcli.config import sharings
from mtlcli.data.batches import Batch, InputFormat, Stream
from mtlcli.data.features import NO_TARGET
from mtlcli.errors import UserError
from mtlcli.models.inference import Inference
from mtlcli.models.packed import packing_of
from mtlcli.tasks.text_form.prompts import Prompt
from mtlcli.tasks.text_form.scoring import continued, paths
from tests.text_tasks import NESTED, World, library_model, text_model, world

STRATEGIES = sorted(name for name, config in sharings.configs.items() if config().no_text() is None)

GENERATE = [name for name in STRATEGIES if sharings.configs[name].generates]


def pieces(made: World, name: str, number: int) -> tuple[str, str]:
    """The texts of a feature before and behind the place where the answer begins."""
    features = made.features[name]
    ids = features.ids[features.offsets[number] : features.offsets[number + 1]]
    at = int(features.columns["prompt"][number])
    before, behind = made.encoder.texts_of([ids[:at].tolist(), ids[at:].tolist()])
    return before, behind


def test_a_feature_is_a_prompt_and_its_answer() -> None:
    made = world(answers=NESTED, max_length=96)
    sentence = made.tables["cola"].column("sentence")[0].lower()
    prompt, answer = pieces(made, "cola", 0)
    spoken = prompt.replace(" ", "")
    assert spoken == f"0:{sentence}fine?".replace(" ", "")
    assert answer == NESTED[made.tasks["cola"].gold(made.tables["cola"])[0]]
    prompt, answer = pieces(made, "stsb", 0)
    assert prompt.replace(" ", "").startswith("stsbsentence1:")
    score = float(answer.replace(" ", ""))
    gold = made.tasks["stsb"].gold(made.tables["stsb"])[0]
    assert abs(score - gold) <= 0.1 + 1e-9
    assert round(score * 10) % 2 == 0, "multiples of 0.2, as in T5"


def test_targets_are_the_tokens_of_the_answer() -> None:
    made = world(answers=NESTED)
    batch = made.batch("cola")
    targets = batch.token_targets["answer"]
    for row in range(len(batch)):
        begin, length = int(batch.columns["prompt"][row]), int(batch.lengths[row])
        expected = [NO_TARGET] * targets.shape[1]
        expected[begin - 1 : length - 1] = batch.input_ids[row, begin:length].tolist()
        assert targets[row].tolist() == expected
        assert int(batch.columns["answer_tokens"][row]) == length - begin
    assert batch.denominator == int((targets != NO_TARGET).sum())


def test_a_text_that_is_too_long_is_cut_and_the_template_stays() -> None:
    short = world(max_length=24)
    lengths = short.features["squad"].lengths
    assert lengths.max() <= 24
    assert short.features["squad"].notes["truncated"] == len(short.tables["squad"])
    prompt, _ = pieces(short, "squad", 0)
    assert prompt.startswith("squad question")
    assert prompt.replace(" ", "").endswith("answer:")
    with pytest.raises(UserError, match="leaves no room for the prompt"):
        world(max_length=12)


def test_templates_can_be_left_out() -> None:
    for templates, count, begin in (("all", 3, "0:"), ("first", 1, "0:"), ("none", 1, "cola sent")):
        made = world(prompts=3, answers=NESTED, templates=templates)
        assert made.features["cola"].variants == count
        prompt, answer = pieces(made, "cola", 0)
        assert prompt.startswith(begin.replace(":", " :"))
        assert answer == NESTED[made.tasks["cola"].gold(made.tables["cola"])[0]]


def test_each_epoch_draws_a_template_for_each_row() -> None:
    made = world(prompts=3)
    features = made.features["cola"]
    assert features.variants == 3 and len(features) == 72
    stream = Stream(features.lengths, batch_size=8, seed=5, variants=features.variants)
    assert stream.batches_in_epoch(0) == 3
    epochs = [
        np.concatenate([stream.indices(3 * epoch + number) for number in range(3)])
        for epoch in range(40)
    ]
    for drawn in epochs:
        assert sorted(features.columns["row"][drawn]) == list(range(24)), "every row once"
    counts = np.bincount(features.columns["variant"][np.concatenate(epochs)], minlength=3)
    assert counts.min() > 0.28 * counts.sum(), "each template in a third of the cases"
    again = Stream(features.lengths, batch_size=8, seed=5, variants=3)
    assert (again.indices(100) == stream.indices(100)).all(), "a function of seed and position"
    assert world(prompts=3, split="validation").features["cola"].variants == 1


def looped(model: Any, batch: Batch, choices: list[list[int]]) -> torch.Tensor:
    """The log likelihoods of choices by the library's model, one after another."""
    found = []
    for row in range(len(batch)):
        prompt = batch.input_ids[row, : int(batch.columns["prompt"][row])].tolist()
        scores = []
        for choice in choices:
            logits = model(torch.tensor([prompt + choice])).logits[0].log_softmax(-1)
            scores.append(
                sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(choice))
            )
        found.append(scores)
    return torch.tensor(found)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("answers", [None, NESTED, {"no": "red", "yes": "blue sky"}])
def test_likelihoods_are_those_of_a_plain_loop(answers: dict[str, str] | None, tied: bool) -> None:
    made = world(answers=answers)
    model = text_model(made, tied=tied)
    library = library_model(model)
    for name in ("cola", "stsb"):
        batch, task = made.batch(name), made.text(name)
        ends = answers is NESTED and name == "cola"
        choices = [each if ends else each[:-1] for each in task.choices]
        with torch.no_grad():
            expected = looped(library, batch, choices)
            found = model.outputs(name, batch)["scores"]
        assert torch.allclose(found, expected, atol=1e-5, rtol=0)
        assert found.std() > 0.01


def test_normalised_and_calibrated_scores() -> None:
    plain = world(answers=NESTED)
    model = text_model(plain)
    batch = plain.batch("cola")
    lengths = torch.tensor([len(each) for each in plain.text("cola").choices])
    assert len(set(lengths.tolist())) == 2
    with torch.no_grad():
        scores = model.outputs("cola", batch)["scores"]
        model.tasks = world("normalised", answers=NESTED).tasks
        assert torch.allclose(model.outputs("cola", batch)["scores"], scores / lengths)
        model.tasks = world("calibrated", answers=NESTED).tasks
        found = model.outputs("cola", batch)["scores"]
        empty = plain.encoder.tokens(["0:  fine?"])["0:  fine?"][0].tolist()
        ids = torch.tensor([[*plain.encoder.before.tolist(), *empty]])
        alone = replace(
            batch,
            input_ids=ids,
            attention_mask=torch.ones_like(ids, dtype=torch.bool),
            columns={"prompt": torch.tensor([ids.shape[1]])},
            lengths=np.array([ids.shape[1]]),
            indices=np.arange(1),
        )
        prior = looped(library_model(model), alone, plain.text("cola").choices)
    assert torch.allclose(found, scores - prior, atol=1e-5)


def test_answers_that_begin_alike_share_a_pass() -> None:
    assert len(paths([[1], [2], [3]])) == 1, "one token each: the prompt alone"
    found = paths([[1, 4], [1, 5], [2, 4], [3]])
    assert sorted(path.tokens for path in found) == [[1], [2]]
    scored = [
        (choice, place)
        for path in found
        for choice, place in zip(path.choices, path.places, strict=True)
    ]
    assert sorted(scored) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]


def test_the_loss_is_that_of_the_library() -> None:
    made = world(answers=NESTED)
    model = text_model(made)
    library = library_model(model)
    for name in made.tasks:
        batch = made.batch(name)
        place = torch.arange(batch.input_ids.shape[1])
        outside = (place < batch.columns["prompt"][:, None]) | ~batch.attention_mask
        with torch.no_grad():
            expected = library(
                batch.input_ids,
                attention_mask=batch.attention_mask.long(),
                labels=batch.input_ids.masked_fill(outside, -100),
            ).loss
            assert torch.allclose(model(name, batch).loss, expected, atol=1e-6)


def test_the_loss_of_packed_batches_is_that_of_padded_ones() -> None:
    made = world(answers=NESTED)
    model = text_model(made)
    batches = [(name, made.batch(name, range(3, 9))) for name in made.tasks]
    found = {}
    for way in ("padded", "packed"):
        if way == "packed":
            form = InputFormat(made.encoder.pad_id, uses_segments=False)
            model.packing = packing_of(model.trunk, form, 64, torch.device("cpu"))
        losses = [model(name, batch).loss for name, batch in batches]
        if way == "packed":
            for one, output in zip(losses, model.together(batches), strict=True):
                assert torch.allclose(output.loss, one, atol=1e-6, rtol=0), "also when mixed"
        gradients = torch.autograd.grad(sum(losses), list(model.parameters()))  # type: ignore[arg-type]
        scores = model.outputs("cola", batches[0][1])["scores"]
        found[way] = [*losses, scores, *gradients]
    for padded, packed in zip(*found.values(), strict=True):
        assert torch.allclose(padded, packed, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("sharing", STRATEGIES)
def test_no_strategy_shows_a_token_what_follows_it(sharing: str) -> None:
    made = world()
    model = text_model(made, sharing)
    batch = made.batch("squad")
    shown = int(batch.lengths.min()) - 4
    other = batch.input_ids.clone()
    other[:, shown:] = (other[:, shown:] + 7) % 200 + 5
    with torch.no_grad():
        before = model.trunk("squad", batch).hidden[:, :shown]
        after = model.trunk("squad", replace(batch, input_ids=other)).hidden[:, :shown]
    assert torch.equal(before, after)


def without_cache(model: Any, made: World, batch: Batch, most: int) -> list[list[int]]:
    """Greedy answers from passes over everything so far."""
    end = made.encoder.end_id
    answers = []
    for row in range(len(batch)):
        answer: list[int] = []
        while len(answer) < most:
            ids = batch.input_ids[row, : int(batch.columns["prompt"][row])].tolist() + answer
            tokens = torch.tensor([ids])
            alone = replace(
                batch,
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens, dtype=torch.bool),
                lengths=np.array([len(ids)]),
                indices=np.zeros(1, np.int64),
                columns={},
                token_targets={},
            )
            encoded = model.encoded("squad", alone)
            answer.append(int(encoded.language(encoded.hidden[0, -1]).argmax()))
            if answer[-1] == end:
                break
        answers.append((answer + [end] * most)[:most])
    return answers


@pytest.mark.parametrize("sharing", GENERATE)
def test_generated_answers_are_those_without_a_cache(sharing: str) -> None:
    made = world()
    model = text_model(made, sharing)
    batch = made.batch("squad", range(3))
    with torch.no_grad():
        ids = Inference(model, "squad").generate(
            continued(batch, []), most=5, beams=1, end=made.encoder.end_id, allowed=None
        )
        assert ids.tolist() == without_cache(model, made, batch, 5)
    assert len(set(ids.flatten().tolist())) > 1, "not one token again and again"


def test_generated_labels_are_labels() -> None:
    made = world("generated", answers=NESTED)
    model = text_model(made)
    features = made.features["cola"]
    with torch.no_grad():
        outputs = {
            key: value.float().numpy()
            for key, value in model.outputs("cola", made.batch("cola", range(24))).items()
        }
    predictions = made.tasks["cola"].decode(outputs, features, made.tables["cola"])
    assert {prediction["label"] for prediction in predictions} <= {"no", "yes"}


@pytest.mark.parametrize("tied", [True, False])
def test_the_language_head_belongs_to_the_tasks_in_text(tied: bool) -> None:
    made = world(heads=["stsb"])
    model = text_model(made, tied=tied)
    infos = model.parameter_infos
    heads = {name: infos[name].users for name in infos if "language_head" in name}
    assert list(heads.values()) == ([] if tied else [("cola", "squad")])
    assert infos["trunk.backbone.network.embed_tokens.weight"].users == ("cola", "stsb", "squad")
    own = [name for name in infos if name.startswith("heads.")]
    assert own and all(name.startswith("heads.stsb.") for name in own)
    private = text_model(made, "none", tied=tied)
    for name, info in private.parameter_infos.items():
        assert len(info.users) == 1, name


def test_templates_that_cannot_be_read() -> None:
    for template, why in (("{a:>3} ?", "a format"), ("{} ?", "without the name"), ("{a ?", "'}'")):
        with pytest.raises(ValueError, match=why):
            Prompt.read(template)
    assert Prompt.read("{{a}} {b}").text({"b": "x"}) == "{a} x"


def test_an_encoder_decoder_has_the_answers_in_its_decoder() -> None:
    made = world(answers=NESTED, architecture="encoder-decoder")
    model = text_model(made)
    backbone = model.trunk.backbone
    assert backbone.decoder is not None
    library: Any = AutoModelForSeq2SeqLM.from_config(backbone.network.config).eval()
    library.load_state_dict(backbone.decoder.network.state_dict(), strict=False)
    # Here, encoder and decoder have word embeddings of their own.
    for name in made.tasks:
        batch = made.batch(name)
        with torch.no_grad():
            encoded = BaseModelOutput(last_hidden_state=model.encoded(name, batch).hidden)
            asked = {"encoder_outputs": encoded, "attention_mask": batch.attention_mask.long()}
            expected = library(**asked, labels=batch.sequences["answer"]).loss
            assert torch.allclose(model(name, batch).loss, expected, atol=1e-5)
            found = model.outputs(name, batch)
            if name == "squad":
                settings = GenerationConfig(
                    max_new_tokens=6,
                    do_sample=False,
                    eos_token_id=made.encoder.end_id,
                    pad_token_id=made.encoder.pad_id,
                    decoder_start_token_id=made.encoder.start_id,
                )
                ids = library.generate(**asked, generation_config=settings)[:, 1:]
                assert found["ids"][:, 0].tolist() == ids[:, 0].tolist()
                continue
            choices = made.text(name).choices
            scores = []
            for choice in choices if name == "cola" else [each[:-1] for each in choices]:
                labels = torch.tensor([choice] * len(batch))
                logits = library(**asked, labels=labels).logits.log_softmax(-1)
                scores.append(logits.gather(-1, labels[..., None]).sum((1, 2)))
        assert torch.allclose(found["scores"], torch.stack(scores, 1), atol=1e-5, rtol=0)
    users = {info.users for name, info in model.parameter_infos.items() if ".decoder." in name}
    assert users == {("cola", "stsb", "squad")}
