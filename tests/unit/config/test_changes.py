"""What a resumed run may change: where rounding is all that differs, and where dropout makes more
of it."""

from __future__ import annotations

import pytest

from mtlcli.config.changes import Change, has_dropout, judge
from mtlcli.config.section import replaced
from tests.unit.config.test_snapshot import VALUES, read


@pytest.mark.parametrize(
    "key",
    [
        "runner.devices",
        "runner.device",
        "runner.accumulation",
        "runner.engine",
        "runner.fast",
        "model.attention",
    ],
)
def test_dropout_is_more_than_rounding(key: str) -> None:
    change = Change(key, 1, 2)
    assert judge([change], [], dropout=False) == (
        [],
        [f"{key}: 1 -> 2: the same result within rounding, not to the bit"],
    )
    (refusal,), notices = judge([change], [], dropout=True)
    problem = refusal.typed()
    assert (
        problem.what == "1 -> 2: dropout drops other elements, which changes the result"
        and notices == []
    )
    assert f"allow=[{key}]" in problem.fix
    assert judge([change], [key], dropout=True) == ([], [f"{key}: 1 -> 2: changed, as allowed"])


def test_keys_that_do_not_affect_dropout_only_change_rounding() -> None:
    for key in ("runner.threads", "runner.eval_batch_size"):
        assert judge([Change(key, 1, 2)], [], dropout=True)[0] == []


def test_dropout_is_found_in_every_place_that_sets_it() -> None:
    config = read(VALUES)
    assert not has_dropout(config, {"hidden_dropout_prob": 0.0, "classifier_dropout": None})
    assert has_dropout(config, {"hidden_dropout_prob": 0.1})
    assert has_dropout(config, {"resid_pdrop": 0.0, "text_config": {"attention_dropout": 0.1}})
    assert has_dropout(replaced(config, {"model.dropout": 0.1}), {})
    assert has_dropout(replaced(config, {f"tasks.{next(iter(config.tasks))}.dropout": 0.2}), {})
