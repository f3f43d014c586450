"""What trackers are told: names and numbers."""

from __future__ import annotations

from pathlib import Path

from mtlcli.trackers.base import About, Ending, row_values, score_values

ROW = {
    "step": 6,
    "tasks": {
        "rte": {"loss": 0.5, "weight": 2.0, "examples": 8},
        "cola": {"loss": 1.5, "weight": 1.0, "examples": 4},
    },
    "gradients": {
        "tasks": ["rte", "cola"],
        "norms": [3.0, 4.0],
        "cosines": [[1.0, -0.5], [-0.5, 1.0]],
    },
    "sharing": {"gates": {"rte": [0.25, 0.75]}, "kind": "soft"},
    "lr": 0.001,
}
RESULTS = {
    "split": "validation",
    "step": 6,
    "tasks": {
        "rte": {
            "metrics": {"accuracy": 0.75, "f1": None},
            "main_metric": "accuracy",
            "main": 0.75,
            "majority": 0.5,
            "examples": 8,
        }
    },
    "average": 0.75,
}


def test_every_number_of_a_row_has_a_name() -> None:
    assert row_values(ROW) == {
        "loss/rte": 0.5,
        "weight/rte": 2.0,
        "examples/rte": 8.0,
        "loss/cola": 1.5,
        "weight/cola": 1.0,
        "examples/cola": 4.0,
        "shared_gradient/rte": 3.0,
        "shared_gradient/cola": 4.0,
        "cosine/rte/cola": -0.5,
        "sharing/gates/rte/0": 0.25,
        "sharing/gates/rte/1": 0.75,
        "lr": 0.001,
    }


def test_scores() -> None:
    assert score_values(RESULTS) == {
        "validation/rte/accuracy": 0.75,
        "validation/average": 0.75,
    }


def test_the_final_table() -> None:
    assert Ending("finished", RESULTS, {}).markdown() == (
        "| task | metric | score | majority | rows |\n"
        "|---|---|---|---|---|\n"
        "| rte | accuracy | 0.75 | 0.5 | 8 |\n"
        "| average |  | 0.75 |  |  |"
    )
    assert Ending("failed", {}, {}).markdown() == ""


def test_names_of_a_run() -> None:
    about = About(Path("/s/sweep/seed=1"), None, "", {"a": {"b": [1]}, "c": None})
    assert (about.name, about.group) == ("seed=1", "sweep")
    assert about.flat_config() == {"a.b": [1], "c": None}
