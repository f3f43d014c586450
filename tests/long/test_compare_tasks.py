"""`mtl compare --leave-one-out` and `--groups`: what is trained and what is reused, the tables and
the answer in words, methods of several runs, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.pinned import FORMAT
from tests.warm import mtl

SMALL = [
    *("task=[rte,cola,sst2]", "data=sample", "sampling=all", "sharing=hard", "--seeds", "1"),
    *("data.max_length=16", "data.max_train_rows=40", "data.max_eval_rows=40", "run_dir=out"),
    *("model=tiny", "model.hidden=16", "model.heads=1", "model.layers=1", "logger.every=2"),
    *("runner.steps=4", "runner.batch_size=4", "runner.device=cpu", "runner.threads=1", FORMAT),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder below which each of three tasks was left out, and then two groups were found."""
    place = tmp_path_factory.mktemp("tasks")
    for name, options in (
        ("left", ("--leave-one-out",)),
        ("groups", ("--groups", "2", "logger.affinity=2", "--affinity", "lookahead")),
    ):
        done = mtl("compare", *SMALL, *options, cwd=place)
        assert done.returncode == 0, done.stdout + done.stderr
        (place / f"{name}.txt").write_text(done.stdout)
    return place


def scores(run: Path) -> dict[str, float]:
    tasks = json.loads((run / "results.json").read_text())["tasks"]
    return {name: score["main"] for name, score in tasks.items()}


def run_of(folder: Path, label: str) -> Path:
    (run,) = (folder / "out").glob(f"{label}_seed-0_*")
    return run


def test_the_table_has_what_each_task_brings(folder: Path) -> None:
    said = (folder / "left.txt").read_text()
    assert "4 runs in out, 4 of them to train" in said
    table = said[said.index("what the task of the row brings") :]
    # The joint run of the groups, which measured affinity, came later.
    joint = min((folder / "out").glob("hard_seed-0_*"), key=lambda run: run.stat().st_ctime)
    for left in ("rte", "cola", "sst2"):
        (cells,) = re.findall(rf"│ {left} +│(.*)│", table.partition("what each took")[0])
        gains = [cell.split(" (")[0].strip(" *") for cell in cells.split("│")]
        without = scores(run_of(folder, f"without-{left}"))
        assert left not in without
        expected = [
            "" if task == left else f"{100 * (scores(joint)[task] - without[task]) + 0:+.1f}"
            for task in ("rte", "cola", "sst2")
        ]
        assert gains[:3] == expected
        # The others were trained as much as in the joint run.
        rows = (run_of(folder, f"without-{left}") / "metrics.jsonl").read_text().splitlines()
        counts = [
            task["examples"] for row in map(json.loads, rows) for task in row["tasks"].values()
        ]
        assert counts == [8] * 4
    assert re.search(r"rte (helps|hurts|is not shown to change) (the )?others on average \(", said)
    assert "lacks" not in said and "Delta-m" not in said


def test_groups_are_methods_of_several_runs(folder: Path) -> None:
    said = (folder / "groups.txt").read_text()
    assert "the share by which training" in said
    found = re.search(r"^groups: (.*)$", said, re.MULTILINE)
    assert found is not None
    groups = [group.split("+") for group in found[1].split(" | ")]
    assert sorted(task for group in groups for task in group) == ["cola", "rte", "sst2"]
    assert len(groups) == 2
    table = said[said.index("gains over none (1 seed)") :]
    for label in ("groups", "random groups", "all in one"):
        assert label in table and f"{label} (1 seed) against none" in table
    # A group of two is the run without the third task, which was there.
    (alone,) = (group[0] for group in groups if len(group) == 1)
    assert f"({run_of(folder, f'without-{alone}').name})" in said
    assert "has finished (without-" in said
    single = scores(run_of(folder, alone))
    base = scores(run_of(folder, "none"))
    (cells,) = re.findall(rf"│ {alone} +│(.*)│", table.partition("against none")[0])
    assert cells.split("│")[2].split(" (")[0].strip(" *") == (
        f"{100 * (single[alone] - base[alone]) + 0:+.1f}"
    )
    assert re.search(r"^groups is .* random groups on the average of 3 tasks", said, re.MULTILINE)
    again = mtl(
        *("compare", *SMALL, "--groups", "2", "logger.affinity=2", "--affinity", "lookahead"),
        cwd=folder,
    )
    assert again.returncode == 0
    assert re.findall(r"(\d+) of them to train", again.stdout) == ["0", "0"]
    # The report takes the runs of groups as one candidate, too.
    names = [run_of(folder, alone).name, run_of(folder, f"without-{alone}").name]
    baseline = ("--baseline", run_of(folder, "none").name)
    done = mtl("report", "--together", *names, *baseline, cwd=folder / "out")
    assert done.returncode == 0, done.stderr
    assert f"hard: {alone} | " in done.stdout


def test_the_surrogate_reads_no_validation_row(folder: Path) -> None:
    options = ("--groups", "2", "--to", "other.html")
    done = mtl("compare", *SMALL, *options, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    probe = run_of(folder, "four-fifths-of-train")
    results = json.loads((probe / "results.json").read_text())
    assert results["split"] == "fold_0_of_5"
    kept = (probe / "affinity.json").read_text()
    affinity = json.loads(kept)["affinity"]
    assert set(affinity) == {"rte", "cola", "sst2"} and affinity["rte"]["rte"] == 0
    again = mtl("compare", *SMALL, *options, cwd=folder)
    assert re.findall(r"(\d+) of them to train", again.stdout) == ["0", "0"]
    assert (probe / "affinity.json").read_text() == kept
    (probe / "affinity.json").write_text("{")
    broken = mtl("compare", *SMALL, *options, cwd=folder)
    assert broken.returncode == 2 and "move the file away" in broken.stderr


def test_mistakes_are_found_before_anything_is_trained(tmp_path: Path) -> None:
    tasks = "task=[rte,cola,sst2]"
    cases = [
        (
            ("task=[rte,cola]", "sharing=hard,lora", "--leave-one-out", "--equal", "compute"),
            [
                "5 problems",
                "--equal compute: has no part in --leave-one-out",
                "--leave-one-out: one candidate",
                "three or more tasks",
                "type sampling=all",
                "type runner.steps=N",
            ],
        ),
        ((tasks, "--groups", "3", "--affinity", "lookahead"), ["from 2 to 2", "logger.affinity=N"]),
        ((tasks, "--groups", "2", "--leave-one-out"), ["--groups: has no part in"]),
        ((tasks, "--affinity", "lookahead"), ["has an effect on groups only"]),
        (
            ("task=[rte,mnli,sst2]", "tasks.rte.weight=2", "optim.plateau=2")
            + ("optim.plateau_tasks=[rte]", "sampling=all", "runner.steps=4", "--leave-one-out"),
            ["optim.plateau_tasks"],
        ),
        ((tasks, "sharing=progressive", "--leave-one-out"), ["has stages"]),
    ]
    for words, expected in cases:
        done = mtl("compare", *words, "data=sample", "model=tiny", "run_dir=x", cwd=tmp_path)
        assert done.returncode == 2, (words, done.stdout, done.stderr)
        for text in expected:
            assert text in done.stderr, (words, text, done.stderr)
    assert list(tmp_path.iterdir()) == []
