from __future__ import annotations

from tests.unit.weighting.steps import build, make_step, tasks


def test_weights_are_the_tasks_importance() -> None:
    assert build("static", tasks(a=1.0, b=1.0, dear=3.0)).weights(make_step(["dear", "b"])) == {
        "dear": 3.0,
        "b": 1.0,
    }
