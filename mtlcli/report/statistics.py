"""Differences between two methods, with intervals: a paired bootstrap over validation rows, seeds
as a second level, Holm's correction, and the average relative gain.

The score of a method is the mean over its seeds. Two things make a difference uncertain, and their
variances add up: which validation rows there are, and which seeds were trained.

- Rows: a paired bootstrap (Efron & Tibshirani 1993, chapter 16; for scores of language tasks Koehn
  2004, Berg-Kirkpatrick et al. 2012). Each resample draws units (rows, or passages or queries that
  rows share) with replacement, the same ones for all runs, and computes the score again.
- Seeds: the variance of the scores over seeds, divided by their number. With two or three seeds, a
  bootstrap that draws seeds would make the interval too narrow by far, because it divides by the
  number of seeds in place of that number minus one, and knows no heavy tails. So the interval takes
  its width from Student's t with the degrees of freedom of Welch (1947) and Satterthwaite.

With a single seed on either side only rows are covered, and what is said about the difference holds
for these two trained models, not for the methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mtlcli.report.resampled import Floats, Resampled

LEVEL = 0.95
"""The confidence level of intervals; 1 minus it is the rate of false verdicts."""
BLOCK = 1 << 22
"""The most draws that are held at once."""


@dataclass
class Scored:
    """The scores of one method: S seeds, K tasks, and B resamples of the rows of each task."""

    points: Floats
    """The scores on all rows: (S, K)."""
    replicates: Floats
    """The scores on each resample: (S, K, B)."""
    units: int
    """The number of units that were resampled; of several tasks, the smallest."""

    def only(self, task: int) -> Scored:
        """Return the scores of one task."""
        return Scored(self.points[:, [task]], self.replicates[:, [task]], self.units)


@dataclass
class Estimate:
    """A difference with its uncertainty."""

    value: float
    low: float
    """The lower end of the interval of level LEVEL."""
    high: float
    """The upper end."""
    p: float
    """The probability of a difference at least as large, on either side, if there were none."""
    covers_seeds: bool
    """Whether the uncertainty over seeds is in the interval, beside that over rows."""


def draw(units: int, replicates: int, seed: Any) -> NDArray[np.int64]:
    """Return how often each unit is in each resample: (replicates, units)."""
    generator = np.random.default_rng(seed)
    found = np.empty((replicates, units), np.int64)
    block = max(1, BLOCK // units)
    for first in range(0, replicates, block):
        count = min(block, replicates - first)
        chosen = generator.integers(0, units, (count, units))
        chosen += units * np.arange(count)[:, None]
        found[first : first + count] = np.bincount(chosen.ravel(), minlength=count * units).reshape(
            count, units
        )
    return found


def replicate(scores: Sequence[Resampled], units: int, seed: Any) -> tuple[Floats, Floats]:
    """Return the scores of several runs on all rows, (runs,), and on the same resamples, (runs, B).

    `seed`: of the draws, so that a report says the same each time.
    """
    replicates = min(score.replicates for score in scores)
    points = np.array([score.at(np.ones((1, units), np.int64))[0] for score in scores])
    block = max(1, BLOCK // units)
    parts = []
    for number, first in enumerate(range(0, replicates, block)):
        draws = draw(units, min(block, replicates - first), [seed, number])
        parts.append(np.stack([score.at(draws) for score in scores]))
    return points, np.concatenate(parts, axis=1)


def estimate(
    function: Callable[[Floats, Floats], Floats], candidate: Scored, baseline: Scored
) -> Estimate:
    """Return a function of the mean scores of two methods, with an interval of level LEVEL and the
    probability of such a value if the true one were 0.

    `function`: from the scores (..., K) of the candidate and of the baseline to the value (...).
    """
    ours, theirs = candidate.points.mean(axis=0), baseline.points.mean(axis=0)
    value = float(function(ours, theirs))
    resampled = function(candidate.replicates.mean(axis=0).T, baseline.replicates.mean(axis=0).T)
    rows = float(np.var(resampled, ddof=1))
    parts = [(rows, candidate.units - 1)]
    seeds = min(len(candidate.points), len(baseline.points))
    if seeds > 1:
        for values in (function(candidate.points, theirs), function(ours, baseline.points)):
            count = len(values)
            parts.append((float(np.var(values, ddof=1)) / count, count - 1))
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Estimate(value, value, value, 1.0 if value == 0 else 0.0, seeds > 1)
    freedom = variance**2 / sum(part**2 / max(1, degrees) for part, degrees in parts)
    error = math.sqrt(variance)
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(value) / error, freedom))
    return Estimate(value, value - half, value + half, p, seeds > 1)


def holm(values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for their number (Holm 1979): where all that are below a level
    count, the probability of any false one among them is at most that level."""
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return adjusted


def difference(signs: Floats) -> Callable[[Floats, Floats], Floats]:
    """Return the function for `estimate` that is the mean gain over tasks, in the unit of the
    scores. `signs`: -1 for tasks whose lower scores are better, else 1."""
    return lambda candidate, baseline: ((candidate - baseline) * signs).mean(axis=-1)


def relative_gain(signs: Floats) -> Callable[[Floats, Floats], Floats]:
    """Return the function for `estimate` that is the mean over tasks of the gain divided by the
    baseline's score: Delta-m of Maninis et al. (2019), as a fraction. Baseline scores must not be
    0."""

    def gain(candidate: Floats, baseline: Floats) -> Floats:
        found: Floats = ((candidate - baseline) * signs / np.abs(baseline)).mean(axis=-1)
        return found

    return gain


def verdict(found: Estimate, adjusted: float) -> str:
    """Return `helps`, `hurts` or `no difference shown`. `adjusted`: the corrected p-value."""
    if adjusted > 1 - LEVEL:
        return "no difference shown"
    return "helps" if found.value > 0 else "hurts"
