"""The zip that the sites of GLUE and SuperGLUE take: a file for each test set, with its official
name, labels and number of rows.

Wang et al. 2018, "GLUE"; Wang et al. 2019, "SuperGLUE". Both sites refuse a zip that lacks a file.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli.config import Config
from mtlcli.config.snapshot import load_config
from mtlcli.disk import writing
from mtlcli.errors import Problem, UserError
from mtlcli.evaluation.saved_run import evaluate_path
from mtlcli.rundir.checkpoint import run_of

NLI = {"entailment": "entailment", "not_entailment": "not_entailment"}
THREE = {label: label for label in ("entailment", "neutral", "contradiction")}
TRUTH = {"False": "false", "True": "true"}


@dataclass(frozen=True)
class OfficialFile:
    """A test set of a benchmark."""

    file: str
    """The name of its file in the zip."""
    task: str
    """The task that predicts it."""
    count: int
    """Its number of rows."""
    labels: dict[str, str] | None = None
    """The label of the task -> its official name; None where the prediction is no label."""
    split: str = "test"
    """The split of the task."""


def _binary(first: str, second: str) -> dict[str, str]:
    return {first: "0", second: "1"}


GLUE = (
    OfficialFile("CoLA.tsv", "cola", 1063, _binary("unacceptable", "acceptable")),
    OfficialFile("SST-2.tsv", "sst2", 1821, _binary("negative", "positive")),
    OfficialFile("MRPC.tsv", "mrpc", 1725, _binary("not_equivalent", "equivalent")),
    OfficialFile("STS-B.tsv", "stsb", 1379),
    OfficialFile("QQP.tsv", "qqp", 390_965, _binary("not_duplicate", "duplicate")),
    OfficialFile("MNLI-m.tsv", "mnli", 9796, THREE, "test_matched"),
    OfficialFile("MNLI-mm.tsv", "mnli", 9847, THREE, "test_mismatched"),
    OfficialFile("QNLI.tsv", "qnli", 5463, NLI),
    OfficialFile("RTE.tsv", "rte", 3000, NLI),
    OfficialFile("WNLI.tsv", "wnli", 146, _binary("not_entailment", "entailment")),
    OfficialFile("AX.tsv", "ax", 1104, THREE),
)
SUPERGLUE = (
    OfficialFile("BoolQ.jsonl", "boolq", 3245, TRUTH),
    OfficialFile("CB.jsonl", "cb", 250, THREE),
    OfficialFile("COPA.jsonl", "copa", 500),
    OfficialFile("MultiRC.jsonl", "multirc", 9693, {"False": "0", "True": "1"}),
    OfficialFile("ReCoRD.jsonl", "record", 10_000),
    OfficialFile("RTE.jsonl", "rte", 3000, NLI),
    OfficialFile("WiC.jsonl", "wic", 1400, TRUTH),
    OfficialFile("WSC.jsonl", "wsc", 146, {"False": "False", "True": "True"}),
    OfficialFile("AX-b.jsonl", "axb", 1104, NLI),
    OfficialFile("AX-g.jsonl", "axg", 356, NLI),
)
BENCHMARKS = {"glue": GLUE, "superglue": SUPERGLUE}


def write_submission(
    benchmark: str,
    path: Path,
    into: Path,
    *,
    overrides: Sequence[str],
    partial: bool,
    say: Callable[[str], None],
) -> None:
    """Predict the test sets of a benchmark with a run, and write the zip.

    `benchmark`: a key of BENCHMARKS. `path`: the run folder or a checkpoint. `overrides`: as those
    of `mtl eval`. `partial`: whether test sets without a task, or with another number of rows than
    the official one, are accepted. The former are filled with a constant prediction, the task's
    first label, so that the site takes the zip; MultiRC, whose rows are nested, is left out. Raises
    UserError with all that is missing or different.
    """
    sets = BENCHMARKS[benchmark]
    config = load_config(run_of(path) / "config.yaml", list(overrides))
    missing = [each for each in sets if each.task not in config.tasks]
    if len(missing) == len(sets):
        raise UserError(
            f"the run has no task of {benchmark}: {', '.join(config.tasks)}",
            f"--submission {benchmark}",
            f"train with task={'glue_all' if benchmark == 'glue' else 'superglue'}",
        )
    if missing and not partial:
        raise UserError([_absent(each, benchmark) for each in missing])
    _check_labels([each for each in sets if each not in missing], config)
    rows = _predicted(path, [each for each in sets if each not in missing], overrides, say)
    wrong = [
        Problem(
            f"task {each.task}: {each.split} has {len(rows[each.file]):,} rows, and {each.file} "
            f"needs {each.count:,}",
            f"--submission {benchmark}",
            "give the official data (data.source=hub), or type --partial",
        )
        for each in sets
        if each.file in rows and len(rows[each.file]) != each.count
    ]
    if wrong and not partial:
        raise UserError(wrong)
    for problem in wrong:
        say(f"warning: {problem.what}")
    contents = {}
    for each in sets:
        if each in missing and each.task == "multirc":
            say(f"{each.file} is left out: the run has no task multirc")
            continue
        if each in missing:
            say(f"{each.file} is filled with a constant: the run has no task {each.task}")
        contents[each.file] = _content(each, rows.get(each.file) or _constant(each))
    with writing("the submission", into, "then predict again"):
        into.parent.mkdir(parents=True, exist_ok=True)
        temporary = into.with_name(f".{into.name}.tmp")
        try:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as made:
                for name, text in contents.items():
                    made.writestr(name, text)
            temporary.replace(into)
        finally:
            temporary.unlink(missing_ok=True)


def _absent(each: OfficialFile, benchmark: str) -> Problem:
    what = f"{each.file} needs task {each.task}, which the run does not have"
    fix = "train with it, or type --partial to fill the file with a constant prediction"
    return Problem(what, f"--submission {benchmark}", fix)


def _check_labels(sets: Sequence[OfficialFile], config: Config) -> None:
    """Raise UserError when a task has other labels than its test set."""
    problems = []
    for each in sets:
        task: Any = config.tasks[each.task]
        labels = getattr(config.tasks[task.head or each.task], "labels", None)
        if each.labels is not None and set(labels or ()) != set(each.labels):
            what = f"its labels are {labels}, and those of {each.file} {list(each.labels)}"
            fix = "a task of your own needs another name than the benchmark's"
            problems.append(Problem(what, f"tasks.{each.task}.labels", fix))
    if problems:
        raise UserError(problems)


def _predicted(
    path: Path, sets: Sequence[OfficialFile], overrides: Sequence[str], say: Callable[[str], None]
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each test set with their predictions, by file."""
    rows = {}
    for split in dict.fromkeys(each.split for each in sets):
        there = [each for each in sets if each.split == split]
        with tempfile.TemporaryDirectory() as folder:
            evaluate_path(
                path,
                split=split,
                tasks=[each.task for each in there],
                overrides=list(overrides),
                predictions=Path(folder),
                say=say,
            )
            for each in there:
                with (Path(folder) / f"{each.task}.jsonl").open(encoding="utf-8") as file:
                    rows[each.file] = [json.loads(line) for line in file]
    return rows


def _constant(each: OfficialFile) -> list[dict[str, Any]]:
    """Return a row with the same prediction for each row of a test set."""
    label = next(iter(each.labels)) if each.labels else None
    return [
        {"row": number + 1, "label": label, "score": 0.0, "option": 0, "text": ""}
        for number in range(each.count)
    ]


def _content(each: OfficialFile, rows: Sequence[dict[str, Any]]) -> str:
    """Return the content of a file."""
    if each.file.endswith(".tsv"):
        lines = ["index\tprediction"]
        for place, row in enumerate(rows):
            answer = (
                each.labels[row["label"]]
                if each.labels
                else f"{min(5.0, max(0.0, row['score'])):.3f}"
            )
            lines.append(f"{place}\t{answer}")
        return "\n".join(lines) + "\n"
    if each.task == "multirc":
        return _multirc(each, rows)
    found = []
    for place, row in enumerate(rows):
        value: Any
        if each.labels:
            value = each.labels[row["label"]]
        else:
            value = row["text"] if each.task == "record" else row["option"]
        # The id of a query of ReCoRD is that of its passage and its own.
        number = str(row.get("id", place)).rpartition("-")[2]
        found.append(json.dumps({"idx": int(number), "label": value}))
    return "\n".join(found) + "\n"


def _multirc(each: OfficialFile, rows: Sequence[dict[str, Any]]) -> str:
    """Return the content of MultiRC's file: a line for each passage, with its questions and their
    answers."""
    assert each.labels is not None
    passages: dict[int, dict[int, list[dict[str, int]]]] = {}
    for row in rows:
        at = row["id"]
        answers = passages.setdefault(at["paragraph"], {}).setdefault(at["question"], [])
        answers.append({"idx": at["answer"], "label": int(each.labels[row["label"]])})
    return "".join(
        json.dumps(
            {
                "idx": passage,
                "passage": {
                    "questions": [
                        {"idx": question, "answers": answers}
                        for question, answers in questions.items()
                    ]
                },
            }
        )
        + "\n"
        for passage, questions in passages.items()
    )
