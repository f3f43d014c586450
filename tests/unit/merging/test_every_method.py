"""Each method of merging against peft's functions, the authors' code or its formula, on random
tensors and small models."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from peft.utils import merge_utils as peft
from torch import Tensor, nn

from mtlcli.data.batches import Batch
from mtlcli.distributed.process_group import Ranks
from mtlcli.merging import adamerging, average, dare, fisher, regmean, task_arithmetic, ties
from mtlcli.merging.base import BACKBONE, Copies, State
from mtlcli.merging.methods import METHODS, OPTIONS
from mtlcli.models.precision import input_format
from mtlcli.training.task_batch import build_task_batch
from tests.small import small_data, small_model

SHAPES = {"a": (7, 11), "b": (13,)}


def drawn(seed: int, shapes: dict[str, tuple[int, ...]] = SHAPES) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def copies(shapes: dict[str, tuple[int, ...]] = SHAPES, runs: int = 3) -> Copies:
    return Copies([drawn(seed, shapes) for seed in range(1, runs + 1)], drawn(0, shapes))


def test_every_method_has_a_module_and_options() -> None:
    for name, method in METHODS.items():
        assert callable(import_module(f"mtlcli.merging.{name}").merge)
        for option, value in method.options.items():
            assert OPTIONS[option].low <= value <= OPTIONS[option].high
    assert {option for method in METHODS.values() for option in method.options} == {*OPTIONS}


def test_average() -> None:
    given = copies()
    merged = average.merge(given)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, torch.stack([w[name] for w in given.weights]).mean(0))


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_task_arithmetic_is_pefts(scale: float) -> None:
    given = copies()
    assert given.base is not None
    for name, tensor in task_arithmetic.merge(given, scale=scale).items():
        vectors = [each[name] for each in given.vectors]
        expected = given.base[name] + peft.task_arithmetic(vectors, torch.full((3,), scale))
        torch.testing.assert_close(tensor, expected)


@pytest.mark.filterwarnings("ignore:The density 1.0")
@pytest.mark.parametrize("density", [0.2, 0.7, 1.0])
def test_ties_is_pefts(density: float) -> None:
    """peft trims each tensor, the authors and this the whole vector: on one tensor both agree."""
    given = copies({"a": (40, 30)})
    assert given.base is not None
    merged = ties.merge(given, scale=0.6, density=density)["a"]
    vectors = [each["a"] for each in given.vectors]
    expected = given.base["a"] + peft.ties(vectors, torch.full((3,), 0.6), density)
    torch.testing.assert_close(merged, expected)


def authors_ties(vectors: Tensor, density: float) -> Tensor:
    """What the authors' code does with flat task vectors (runs, n), as in prateeky2806/ties-merging
    (`merge_methods` with "dis-mean"): trim, elect by mass, and take the mean of what agrees. Here
    the trimming keeps exactly the largest share."""
    kept = torch.zeros_like(vectors)
    for place, vector in enumerate(vectors):
        top = vector.abs().argsort(descending=True)[: int(density * len(vector))]
        kept[place, top] = vector[top]
    sign = torch.sign(kept.sum(0))
    sign[sign == 0] = 1.0
    rows = torch.where(sign.unsqueeze(0) > 0, kept > 0, kept < 0)
    selected = kept * rows
    nonzero = (selected != 0).sum(0).float()
    return selected.sum(0) / nonzero.clamp(min=1)


def test_ties_trims_the_whole_vector_as_the_authors_do() -> None:
    given = copies()
    assert given.base is not None
    for vectors in given.weights:  # One tensor with larger changes than the other.
        vectors["b"] *= 5
    merged = ties.merge(given, scale=1.0, density=0.25)
    flat = torch.stack([torch.cat([v["a"].flatten(), v["b"]]) for v in given.vectors])
    expected = authors_ties(flat, 0.25)
    found = torch.cat([(merged[name] - given.base[name]).flatten() for name in ("a", "b")])
    torch.testing.assert_close(found, expected)
    assert torch.equal(ties.merge(given, scale=1.0, density=0.001)["a"], given.base["a"])


def test_dare_drops_and_rescales() -> None:
    given = copies({"a": (300, 200)}, runs=2)
    assert given.base is not None
    merged = dare.merge(given, scale=0.5, density=0.25, seed=1)["a"]
    one, two = (each["a"] for each in given.vectors)
    change = (merged - given.base["a"]) / 0.5 * 0.25
    kinds = [torch.isclose(change, each, atol=1e-5) for each in (one, two, one + two, 0 * one)]
    shares = [kind.float().mean().item() for kind in kinds]
    # Each number of each vector is kept with probability 1/4, by itself.
    assert shares == pytest.approx([3 / 16, 3 / 16, 1 / 16, 9 / 16], abs=0.01)
    again, other = (dare.merge(given, scale=0.5, density=0.25, seed=seed)["a"] for seed in (1, 2))
    assert torch.equal(merged, again) and not torch.equal(merged, other)
    kept = dare.merge(given, scale=0.5, density=1.0, seed=1)["a"]
    torch.testing.assert_close(kept, task_arithmetic.merge(given, scale=0.5)["a"])


# ------------------------------------------------------------------------------------------------
# methods that read rows


class SmallRows:
    """Rows of cola (run 0) and squad (run 1) and their model."""

    tasks = ("cola", "squad")

    def __init__(self) -> None:
        self.model, _ = small_model("hard", fast=False)
        self.model.eval()
        tasks, _, self.features, files = small_data()
        self.given = tasks
        self.format = input_format(files.encoder(), "fp32", torch.device("cpu"))

    def load(self, weights: State) -> None:
        state = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in weights.items():
                state[BACKBONE + name].copy_(tensor)

    def batch(self, task: str, rows: list[int]) -> Batch:
        made = build_task_batch(
            self.given[task],
            self.features[task],
            np.array(rows),
            input_format=self.format,
            accumulation=1,
            ranks=Ranks(0, 1, torch.device("cpu")),
        )
        return made.micro[0]

    def of_run(self, run: int, rows: int, seed: int) -> Iterator[tuple[str, Batch]]:
        for row in range(rows):
            yield self.tasks[run], self.batch(self.tasks[run], [row])

    def batches(self, rows: int, size: int, seed: int) -> Iterator[list[tuple[str, Batch]]]:
        while True:
            yield [("cola", self.batch("cola", [*range(size)]))]


@pytest.fixture
def models() -> Copies:
    """Two models near their common beginning."""
    rows = SmallRows()
    base = {
        name.removeprefix(BACKBONE): tensor.clone()
        for name, tensor in rows.model.state_dict().items()
        if name.startswith(BACKBONE) and tensor.is_floating_point()
    }
    torch.manual_seed(1)
    near = [
        {name: tensor + 0.02 * torch.randn_like(tensor) for name, tensor in base.items()}
        for _ in range(2)
    ]
    return Copies(near, base, rows)


def test_fisher_weights_by_squared_gradients(models: Copies) -> None:
    rows: Any = models.rows
    found = fisher.information(models, 0, 3, 0)
    name = "network.encoder.layer.1.output.dense.weight"
    rows.load(models.weights[0])
    parameter = dict(rows.model.named_parameters())[BACKBONE + name]
    squares = []
    for row in range(3):
        (gradient,) = torch.autograd.grad(
            rows.model("cola", rows.batch("cola", [row])).loss, [parameter]
        )
        squares.append(gradient**2)
    torch.testing.assert_close(found[name], torch.stack(squares).mean(0))

    merged = fisher.merge(models, rows=3, seed=0)
    infos = [fisher.information(models, run, 3, 0) for run in (0, 1)]
    norms = [torch.sqrt(sum((each**2).sum() for each in info.values())) for info in infos]
    shares = [info[name].clamp(min=1e-6) / norm for info, norm in zip(infos, norms, strict=True)]
    expected = sum(s * w[name] for s, w in zip(shares, models.weights, strict=True)) / sum(shares)
    torch.testing.assert_close(merged[name], expected)
    # The mean, where no gradient says anything: these positions have no token.
    unused = "network.embeddings.position_embeddings.weight"
    share = 1 / norms[0] / (1 / norms[0] + 1 / norms[1])
    last = share * models.weights[0][unused][-1] + (1 - share) * models.weights[1][unused][-1]
    torch.testing.assert_close(merged[unused][-1], last)


def test_regmean_solves_least_squares() -> None:
    """With shrink=1, the solution is that of all inputs and targets in one least squares
    problem."""
    torch.manual_seed(0)
    inputs = [torch.randn(50, 6, dtype=torch.float64) for _ in range(2)]
    weights = [torch.randn(6, 4, dtype=torch.float64) for _ in range(2)]
    pairs = [(x.T @ x, w) for x, w in zip(inputs, weights, strict=True)]
    targets = torch.cat([x @ w for x, w in zip(inputs, weights, strict=True)])
    expected = torch.linalg.lstsq(torch.cat(inputs), targets).solution
    mean = (weights[0] + weights[1]) / 2
    torch.testing.assert_close(regmean.solved(pairs, mean, 1.0), expected, rtol=1e-4, atol=1e-4)
    # Without inputs, the mean stays; the diagonal alone weights each input by itself.
    zero = torch.zeros(6, 6, dtype=torch.float64)
    torch.testing.assert_close(regmean.solved([(zero, w) for w in weights], mean, 0.9), mean)
    shares = torch.stack([gram.diagonal() for gram, _ in pairs])
    by_input = (shares[0, :, None] * weights[0] + shares[1, :, None] * weights[1]) / shares.sum(
        0
    ).unsqueeze(1)
    torch.testing.assert_close(regmean.solved(pairs, mean, 0.0), by_input, rtol=1e-4, atol=1e-4)


def test_regmean_reads_the_inputs_of_each_map(models: Copies) -> None:
    rows: Any = models.rows
    maps = regmean.linear_maps(rows.model)
    grams = regmean.grams_of(models, 1, maps, 2, 0)
    seen = []
    name = "network.encoder.layer.0.attention.self.query"
    rows.load(models.weights[1])
    embed: nn.Module = rows.model.get_submodule(f"{BACKBONE}network.embeddings")
    for row in range(2):
        batch = rows.batch("squad", [row])
        seen.append(embed(batch.input_ids, batch.token_type_ids).detach()[0])
    states = torch.cat(seen).double()
    torch.testing.assert_close(grams[name], states.T @ states / len(states))

    merged = regmean.merge(models, rows=2, shrink=0.9, seed=0)
    norm = "network.embeddings.LayerNorm.weight"
    assert torch.equal(merged[norm], models.mean()[norm])
    key = f"{name}.weight"
    pairs = [
        (regmean.grams_of(models, run, maps, 2, 0)[name], models.weights[run][key].T)
        for run in (0, 1)
    ]
    expected = regmean.solved(pairs, models.mean()[key].T, 0.9).T
    torch.testing.assert_close(merged[key], expected)


def test_adamerging_makes_predictions_certain(models: Copies) -> None:
    rows: Any = models.rows
    assert models.base is not None

    def uncertainty(weights: State) -> float:
        rows.load(weights)
        with torch.no_grad():
            outputs = rows.model("cola", rows.batch("cola", [*range(16)])).outputs
        return adamerging.entropy(outputs["logits"]).item()

    start = adamerging.merge(models, scale=0.3, steps=1, lr=1e-9, rows=16, seed=0)
    expected = task_arithmetic.merge(models, scale=0.3)
    for name, tensor in start.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    learned = adamerging.merge(models, scale=0.3, steps=20, lr=0.05, rows=16, seed=0)
    assert uncertainty(learned) < uncertainty(start)
    # Each tensor is the beginning and a multiple of each vector, from 0 to 1.
    name = "network.encoder.layer.0.output.dense.weight"
    vectors = torch.stack([each[name].flatten() for each in models.vectors], 1)
    change = (learned[name] - models.base[name]).flatten()
    scales = torch.linalg.lstsq(vectors, change.unsqueeze(1)).solution.flatten()
    torch.testing.assert_close(vectors @ scales, change, rtol=1e-3, atol=1e-5)
    assert ((scales >= -1e-4) & (scales <= 1 + 1e-4)).all()
    assert not torch.allclose(scales, torch.full((2,), 0.3), atol=0.02)


def test_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 50.0]])
    torch.testing.assert_close(adamerging.entropy(logits), torch.tensor(np.log(2) / 2).float())
