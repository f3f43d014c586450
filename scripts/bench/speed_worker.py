"""What scripts/bench/speed.py runs in a process of its own: the Trainer, and `mtl` with a clock
inside.

    python scripts/bench/speed_worker.py trainer JOB REPORT batches given in a file, one Trainer
    after the other
    python scripts/bench/speed_worker.py script JOB REPORT one whole training script, from parquet
    files to scores
    python scripts/bench/speed_worker.py load JOB REPORT importing torch and transformers and
    loading the model, no more
    python scripts/bench/speed_worker.py mtl HOOK REPORT ARGS... `mtl ARGS...`; HOOK is stages, stub
    or evaluation

JOB is a JSON file with settings; a JSON file with what was measured is written to REPORT.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Do one job."""
    kind, first, report, *rest = sys.argv[1:]
    if kind == "mtl":
        measured = mtl(first, rest)
    else:
        job = json.loads(Path(first).read_text())
        measured = {"trainer": trainer, "script": script, "load": load}[kind](job)
    Path(report).write_text(json.dumps(measured))


def load(job: dict[str, Any]) -> dict[str, Any]:
    """The least that any training must do before its first step."""
    import torch  # noqa: F401
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_pretrained(job["model"])
    return {"first_step": time.time()}


def make_trainer(
    job: dict[str, Any], name: str, labels: int, train: Any, evaluation: Any = None, **more: Any
) -> Any:
    """A Trainer for one task, which notes when it began and ended its steps in `.clock`.

    `job`: `model`, `padded` (to max_length, as run_glue does), `bf16`, `attention` (None: the
    default), `compiled` (a backend of torch.compile, or None), `device`, `out`. What is not given
    stays as the library has it: random order, the fused AdamW, gradients clipped at 1. On a GPU,
    four processes make the batches.
    """
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        default_data_collator,
    )

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.begins: list[float] = []
            self.ends: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begins.append(time.time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if job["device"] == "cuda" and len(self.ends) + 1 in (job["warmup"], job["steps"]):
                import torch

                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

    model = AutoModelForSequenceClassification.from_pretrained(
        job["model"],
        num_labels=labels,
        problem_type="regression" if labels == 1 else "single_label_classification",
        **({"attn_implementation": job["attention"]} if job["attention"] else {}),
    )
    arguments = TrainingArguments(
        output_dir=f"{job['out']}/{name}",
        per_device_train_batch_size=job["batch_size"],
        bf16=job["bf16"],
        use_cpu=job["device"] == "cpu",
        torch_compile=job["compiled"] is not None,
        torch_compile_backend=job["compiled"],
        dataloader_num_workers=4 if job["device"] == "cuda" else 0,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **more,
    )
    collator: Any = (
        default_data_collator
        if job["padded"]
        else DataCollatorWithPadding(AutoTokenizer.from_pretrained(job["model"]))
    )
    clock = Clock()
    made = Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=evaluation,
        data_collator=collator,
        callbacks=[clock],
        compute_metrics=_metrics if evaluation is not None else None,
    )
    made.clock = clock  # type: ignore[attr-defined]
    return made


def _metrics(output: Any) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score

    guess = output.predictions.argmax(-1)
    return {
        "accuracy": float(accuracy_score(output.label_ids, guess)),
        "f1": float(f1_score(output.label_ids, guess)),
    }


def _pad(row: dict[str, Any], length: int) -> dict[str, Any]:
    """A row padded as the tokenizer pads (id 0, type 0, not attended)."""
    return {
        key: value + [0] * (length - len(value)) if isinstance(value, list) else value
        for key, value in row.items()
    }


def trainer(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a step of each task after `warmup` steps: from the end of one step to that of the
    next, so fetching is in it."""
    from datasets import Dataset

    seconds = {}
    for name, task in job["tasks"].items():
        rows = [row for batch in task["batches"] for row in batch]
        if job["padded"]:
            rows = [_pad(row, job["max_length"]) for row in rows]
        steps = len(task["batches"])
        job["steps"] = steps
        # The batches come in the order that the sampler gave them elsewhere; what is not asked for
        # by default is that order alone.
        made = make_trainer(
            job | {"batch_size": task.get("batch_size", job["batch_size"])},
            name,
            task["labels"],
            Dataset.from_list(rows),
            train_sampling_strategy="sequential",
            num_train_epochs=1,
        )
        made.train()
        ends, warmup = made.clock.ends, job["warmup"]
        assert len(ends) == steps, f"{len(ends)} steps instead of {steps}"
        seconds[name] = (ends[-1] - ends[warmup - 1]) / (steps - warmup)
    return {"seconds": seconds}


def script(job: dict[str, Any]) -> dict[str, Any]:
    """MRPC as run_glue trains it, without the package `evaluate` (6 s to import): parquet files,
    tokenizer, Trainer, scores."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    splits = {"train": "train", "validation": job.get("eval_split", "validation")}
    files = {name: f"{job['data']}/glue/mrpc/{split}.parquet" for name, split in splits.items()}
    sets = load_dataset("parquet", data_files=files)
    for split, count in (("train", job["train_rows"]), ("validation", job["eval_rows"])):
        if count is not None:
            sets[split] = sets[split].select(range(min(count, len(sets[split]))))
    padding = "max_length" if job["padded"] else False
    sets = sets.map(
        lambda rows: tokenizer(
            rows["sentence1"],
            rows["sentence2"],
            truncation=True,
            max_length=job["max_length"],
            padding=padding,
        ),
        batched=True,
    )
    made = make_trainer(
        job,
        "mrpc",
        2,
        sets["train"],
        sets["validation"],
        max_steps=job["steps"],
        per_device_eval_batch_size=job["eval_batch_size"],
        train_sampling_strategy="group_by_length" if job["grouped"] else "random",
    )
    made.train()
    start = time.perf_counter()
    made.evaluate()
    seconds = time.perf_counter() - start
    return {
        "first_step": made.clock.begins[0],
        "evaluation": seconds,
        "eval_rows": len(sets["validation"]),
    }


def mtl(hook: str, arguments: list[str]) -> dict[str, Any]:
    """`mtl ARGS...` with something hung into it."""
    from mtlcli.__main__ import main as run_command

    measured = {"stages": time_stages, "stub": stub_model, "evaluation": time_evaluation}[hook]()
    sys.argv = ["mtl", *arguments]
    code = run_command()
    if code:
        sys.exit(code)
    return measured


def _timed(function: Callable[..., Any], note: Callable[[float], None]) -> Callable[..., Any]:
    """The function, which tells how long each call took."""

    @functools.wraps(function)
    def wrapper(*arguments: Any, **more: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **more)
        finally:
            note(time.perf_counter() - start)

    return wrapper


def time_stages() -> dict[str, Any]:
    """Clock the parts of a step: seconds of each part before each row of metrics.jsonl, which is
    one step if the run logs every step."""
    import torch

    from mtlcli.models.multitask import MultiTaskModel
    from mtlcli.training.run import Run
    from mtlcli.training.stages import Stages

    parts: dict[str, list[tuple[Any, str]]] = {
        "data": [(Stages, "plan"), (Run, "fetch")],
        "forward": [(MultiTaskModel, "forward"), (MultiTaskModel, "together")],
        "backward": [(torch.Tensor, "backward")],
        "optimiser": [
            (torch.nn.utils, "get_total_norm"),
            (torch.nn.utils, "clip_grads_with_norm_"),
            (torch.optim.AdamW, "step"),
        ],
    }
    spent = dict.fromkeys(parts, 0.0)
    steps: list[dict[str, float]] = []

    def adding(part: str) -> Callable[[float], None]:
        def add(seconds: float) -> None:
            spent[part] += seconds

        return add

    for part, places in parts.items():
        for owner, name in places:
            setattr(owner, name, _timed(getattr(owner, name), adding(part)))

    def note() -> None:
        steps.append(dict(spent))
        spent.update(dict.fromkeys(spent, 0.0))

    at_each_row(note)
    return {"steps": steps}


def at_each_row(note: Callable[[], None]) -> None:
    """Call something before each row of metrics.jsonl is written."""
    from mtlcli.rundir.folder import RunFolder

    append = RunFolder.append_metrics

    def noted(self: RunFolder, row: dict[str, Any]) -> None:
        note()
        append(self, row)

    RunFolder.append_metrics = noted  # type: ignore[method-assign]


def stub_model() -> dict[str, Any]:
    """In the place of the model one of its numbers: what is left of a step is the loop around the
    model, as a clock outside sees it."""
    from mtlcli.models.multitask import MultiTaskModel, TaskOutput

    measured: dict[str, Any] = {"calls": 0, "rows": []}

    def forward(model: Any, task: str, batch: Any) -> TaskOutput:
        if not measured["calls"]:
            model.smallest = [min(model.parameters(), key=lambda parameter: parameter.numel())]
        measured["calls"] += 1
        return TaskOutput(model.smallest[0].sum(), {})

    def together(model: Any, batches: Any) -> list[TaskOutput]:
        return [forward(model, task, batch) for task, batch in batches]

    MultiTaskModel.forward = forward  # type: ignore[assignment, method-assign]
    MultiTaskModel.together = together  # type: ignore[assignment, method-assign]
    at_each_row(lambda: measured["rows"].append(time.perf_counter()))
    return measured


def time_evaluation() -> dict[str, Any]:
    """Clock the last evaluation of a run."""
    from mtlcli.training import trainer

    measured: dict[str, Any] = {}

    def note(seconds: float) -> None:
        measured["evaluation"] = seconds

    setattr(trainer, "evaluate", _timed(getattr(trainer, "evaluate"), note))  # noqa: B009, B010 (mypy: it is imported there)
    return measured


if __name__ == "__main__":
    main()
