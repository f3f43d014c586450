"""The body of a request, and the errors about it."""

from __future__ import annotations

import json

import pytest

from mtlcli.errors import Problem, UserError
from mtlcli.serve.asked import NAMED, NotJson, as_json, asked, failure, trimmed


def test_a_request() -> None:
    found = asked(
        b'{"task": ["a", "b", "a"], "inputs": ["x", ["y", "z"], {"text": "w"}]}', rows=3, tasks=2
    )
    assert found.task == ["a", "b"] and found.inputs == ["x", ["y", "z"], {"text": "w"}]
    assert asked(b'{"inputs": []}', rows=1, tasks=1).task is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "Expecting value in line 1, column 1"),
        (b'{"inputs": [\n}', "Expecting value in line 2, column 1"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"inputs": [NaN]}', "NaN is no number of JSON"),
        (b'{"inputs": ["\xff"]}', "not UTF-8"),
        (b"9" * 5000, "4300 digits"),
    ],
)
def test_what_is_not_json(body: bytes, reason: str) -> None:
    with pytest.raises(NotJson, match=reason) as caught:
        asked(body, rows=1, tasks=1)
    assert caught.value.problems[0].where == "body"


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("[]", ["body: the body is no JSON object"]),
        ('{"input": 1}', ["unknown key 'input'", "did you mean 'inputs'", "'inputs' is missing"]),
        ('{"inputs": "x"}', ["inputs: the key 'inputs' is no list"]),
        ('{"inputs": ["x", 1, null]}', ["inputs, row 2: the input is neither", "inputs, row 3"]),
        ('{"inputs": ["x", "x", "x", "x"]}', ["4 inputs, and a request may have 3"]),
        ('{"task": [], "inputs": []}', ["task: the key 'task' is neither"]),
        ('{"task": {"a": 1}, "inputs": []}', ["task: the key 'task' is neither"]),
        ('{"task": ["a", "b", "c"], "inputs": []}', ["3 tasks are named, and the model has 2"]),
    ],
)
def test_json_of_another_form(body: str, lines: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        asked(body.encode(), rows=3, tasks=2)
    assert [line for line in lines if line not in str(caught.value)] == []


def test_long_names_and_many_problems_stay_short() -> None:
    body = json.dumps({"task": "t" * 100_000, "inputs": [], **dict.fromkeys(map(str, range(99)))})
    with pytest.raises(UserError) as caught:
        asked(body.encode(), rows=1, tasks=1)
    assert len(caught.value.problems) == NAMED
    found = asked(json.dumps({"task": "t" * 100_000, "inputs": []}).encode(), rows=1, tasks=1)
    assert isinstance(found.task, str) and len(found.task) < 300


def test_objects_in_columns_hold_what_is_needed() -> None:
    rows = [{"translation": {"de": "x", "en": "y"}, "more": [{"de": 1, "b": 2}]}, ["x", {"b": 1}]]
    wanted = [{"translation": {"de": "x"}, "more": [{"de": 1}]}, ["x", {}]]
    assert trimmed(rows, ["translation.de"]) == wanted
    assert asked(b'{"inputs": ' + b"[" * 20 + b"]" * 20 + b"}", rows=1, tasks=1)
    with pytest.raises(UserError, match="more than 20 lists or objects are inside one another"):
        asked(b'{"inputs": ' + b"[" * 21 + b"]" * 21 + b"}", rows=1, tasks=1)


def test_the_form_of_errors() -> None:
    one, other = Problem("is wrong", "a", "do this"), Problem("is wrong too")
    assert failure([one]) == {"error": {"what": "is wrong", "where": "a", "what to do": "do this"}}
    assert failure([one, other])["more"] == [
        {"what": "is wrong too", "where": "", "what to do": ""}
    ]
    assert len(failure([one] * 99)["more"]) == NAMED - 1
    assert as_json({"text": "\ud800é"}) == b'{"text":"\\ud800\\u00e9"}'
