"""Which weightings reach the Pareto front of the two-task toy of the CAGrad and FAMO papers?

Liu et al. 2021, "Conflict-Averse Gradient Descent", appendix; the five starting points and the
unbalanced variant (first loss times 0.1) of Liu et al. 2023, "FAMO". The two losses of a point in
the plane have opposed gradients of very different size along a valley; the plain sum stalls there
from some starts. Losses are shifted by 21, so that all are positive: gradients stay the same, and
methods that take logarithms are defined.

    python scripts/toy_pareto.py                       # table on the console
    python scripts/toy_pareto.py --plot toy.png        # and the paths (needs matplotlib)
    python scripts/toy_pareto.py --methods static pcgrad cagrad --steps 50000

A start counts as arrived when its end lies within --tolerance of the front in the plane of the
(unscaled) losses.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtlcli.config import weightings
from mtlcli.errors import RunError, RunWarning
from mtlcli.weighting.base import Step, WeightedTask
from mtlcli.weighting.gradients.base import GradientBalancing

STARTS = [(-8.5, 7.5), (-8.5, 5.0), (0.0, 0.0), (9.0, 9.0), (10.0, -8.0)]
NAMES = ["one", "two"]
SHIFT = 21.0


def losses(points: Tensor) -> Tensor:
    """(N, 2) losses of (N, 2) points, as the papers' code has them, before the shift."""
    x, y = points[:, 0], points[:, 1]
    upper, lower = torch.tanh(0.5 * y).clamp(min=0), torch.tanh(-0.5 * y).clamp(min=0)
    first = torch.log((0.5 * (-x - 7) - torch.tanh(-y)).abs().clamp(min=5e-6)) + 6
    second = torch.log((0.5 * (-x + 3) + torch.tanh(-y) + 2).abs().clamp(min=5e-6)) + 6
    bowl = 0.1 * (-y - 8).square()
    right = ((-x + 7).square() + bowl) / 10 - 20
    left = ((-x - 7).square() + bowl) / 10 - 20
    return torch.stack([first * upper + right * lower, second * upper + left * lower], 1)


def front() -> Tensor:
    """Points of the Pareto front in the plane of the losses: between the two bowls, at their common
    height."""
    x = torch.linspace(-7, 7, 2001, dtype=torch.float64)
    grid = torch.linspace(-9, -7, 401, dtype=torch.float64)
    # The lower half's factor tanh(-y/2) moves the minimum a little below -8: take the best height
    # for every x.
    values = losses(torch.cartesian_prod(x, grid)).view(len(x), len(grid), 2)
    return values[torch.arange(len(x)), values.sum(2).argmin(1)]


def run(
    name: str, steps: int, lr: float, scale: float, options: dict[str, Any]
) -> tuple[np.ndarray, str]:
    """The path (kept, starts, 2) of a weighting from every start, and why it stopped early, if it
    did."""
    tasks = {task: WeightedTask(1.0, "regression") for task in NAMES}
    methods = [
        weightings.implementation(name)(weightings.configs[name](**options), tasks) for _ in STARTS
    ]
    points = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": [points]}]
    learned = [parameter for method in methods for parameter in method.parameters()]
    if learned:
        groups.append({"params": learned, "lr": methods[0].config.lr})
    optimizer = torch.optim.Adam(groups, lr=lr)
    factors = torch.tensor([scale, 1.0], dtype=torch.float64)
    path = [points.detach().clone().numpy()]
    trouble = ""

    def shifted() -> Tensor:
        return factors * (losses(points) + SHIFT)

    for number in range(steps):
        optimizer.zero_grad()
        values = shifted()
        # The starts do not touch one another: two backward passes give the gradients of all of
        # them.
        rows = torch.stack(
            [
                torch.autograd.grad(values[:, task].sum(), points, retain_graph=task == 0)[0]
                for task in (0, 1)
            ],
            1,
        )
        made, direction = [], torch.zeros_like(points)
        for start, method in enumerate(methods):
            step = Step(
                number=number, total=steps, epoch=number * 100 // steps, seed=start, tasks=NAMES
            )
            step.losses = dict(zip(NAMES, values[start].tolist(), strict=True))
            step.gram = rows[start] @ rows[start].T
            made.append(step)
            try:
                if method.known(step) == "rows":
                    direction[start] = method.combine(step, rows[start].float(), 0, 2).double()
                else:
                    weights = method.weights(step)
                    direction[start] = sum(
                        weights[task] * row for task, row in zip(NAMES, rows[start], strict=True)
                    )
                if method.parameters():
                    method.objective(
                        {task: values[start, index].detach() for index, task in enumerate(NAMES)}
                    ).backward()
                method.observe(step)
            except RunError as error:
                # No weights: this start stays where it is.
                trouble = error.problems[0].what
        points.grad = direction
        optimizer.step()
        if methods[0].losses_after_step:
            after = shifted().detach()
            for start, (method, step) in enumerate(zip(methods, made, strict=True)):
                method.observe_after(step, dict(zip(NAMES, after[start].tolist(), strict=True)))
        if number % max(1, steps // 500) == 0:
            path.append(points.detach().clone().numpy())
    path.append(points.detach().clone().numpy())
    failures = sum(method.failures for method in methods if isinstance(method, GradientBalancing))
    return np.array(path), trouble or (f"the solver failed in {failures} steps" if failures else "")


def draw(paths: dict[str, np.ndarray], file: Path) -> None:
    """One panel a method: the level lines of the sum, the front, and the five paths."""
    from matplotlib import pyplot

    columns = 6
    lines = -(-len(paths) // columns)
    figure, panels = pyplot.subplots(
        lines, columns, figsize=(3 * columns, 3 * lines), squeeze=False
    )
    x, y = np.meshgrid(np.linspace(-10.5, 10.5, 200), np.linspace(-10.5, 10.5, 200))
    height = losses(torch.tensor(np.stack([x.ravel(), y.ravel()], 1))).sum(1).view(200, 200).numpy()
    for panel in panels.ravel()[len(paths) :]:
        panel.axis("off")
    for panel, (name, path) in zip(panels.ravel(), paths.items(), strict=False):
        panel.contour(x, y, height, levels=30, linewidths=0.4, cmap="Greys")
        panel.plot([-7, 7], [-8.3, -8.3], color="tab:gray", linewidth=5, alpha=0.5)
        for start in range(len(STARTS)):
            panel.plot(path[:, start, 0], path[:, start, 1], linewidth=1.2)
            panel.plot(*path[0, start], "k.", markersize=4)
            panel.plot(*path[-1, start], "r*", markersize=7)
        panel.set_title(name, fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([])
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Run every method and print which starts arrive."""
    torch.set_num_threads(1)
    # A solver that fails is counted in the table; a line for every step of it would bury that.
    warnings.simplefilter("ignore", RunWarning)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[name for name in weightings if name != "annealed"],
        choices=list(weightings),
    )
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument(
        "--lr",
        type=float,
        default=5e-3,
        help="Adam's; the papers have 0.001 and 50,000 to 100,000 steps",
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="factor of the first loss; FAMO's unbalanced variant has 0.1",
    )
    parser.add_argument("--tolerance", type=float, default=0.25)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    edge = front()
    print(
        f"Adam, lr {arguments.lr:g}, {arguments.steps} steps, first loss x {arguments.scale:g}; "
        "distance to the front from each start"
    )
    print(
        "| method | "
        + " | ".join(f"({x:g}, {y:g})" for x, y in STARTS)
        + " | arrived | seconds | |"
    )
    print("|---|" + "---|" * (len(STARTS) + 3))
    paths = {}
    for name in arguments.methods:
        began = time.perf_counter()
        path, trouble = run(name, arguments.steps, arguments.lr, arguments.scale, {})
        paths[name] = path
        ends = losses(torch.tensor(path[-1]))
        distances = torch.cdist(ends, edge).min(1).values.tolist()
        arrived = sum(distance < arguments.tolerance for distance in distances)
        cells = " | ".join(f"{distance:.2f}" for distance in distances)
        print(
            f"| {name} | {cells} | {arrived} of 5 | {time.perf_counter() - began:.0f} | {trouble} "
            "|",
            flush=True,
        )
    if arguments.plot:
        draw(paths, arguments.plot)


if __name__ == "__main__":
    main()
