"""Intervals hold the true gain as often as they say, and a method is not better than itself."""

from __future__ import annotations

import numpy as np
import pytest

from mtlcli.report.resampled import Resampled, resampled
from mtlcli.report.statistics import (
    Scored,
    difference,
    draw,
    estimate,
    holm,
    relative_gain,
    replicate,
    verdict,
)

ROWS, RESAMPLES = 120, 200
GAIN = difference(np.ones(1))


class Population:
    """Rows of unlike difficulty, and methods whose seeds are unlike, too."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def rows(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels and difficulties of rows."""
        return self.random.random(count) < 0.4, self.random.normal(0, 1.5, count)

    def scores(
        self, rows: tuple[np.ndarray, np.ndarray], skill: float, seeds: int, spread: float
    ) -> list[Resampled]:
        """The F1 of a method of some skill, for each of its seeds."""
        gold, difficulty = rows
        found = []
        for _ in range(seeds):
            logit = skill + self.random.normal(0, spread) - difficulty
            right = self.random.random(len(gold)) < 1 / (1 + np.exp(-logit))
            labels = np.where(right, gold, ~gold).astype(int)
            form = resampled(
                "f1", "f1", labels, gold.astype(int), {"classes": 2}, np.arange(len(gold))
            )
            form.replicates = RESAMPLES
            found.append(form)
        return found


def scored(points: np.ndarray, replicates: np.ndarray, units: int = ROWS) -> Scored:
    return Scored(points[:, None], replicates[:, None], units)


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.4)])
def test_intervals_cover_the_true_gain(seeds: int, spread: float) -> None:
    population, trials, skills = Population(1), 400, (1.4, 1.0)
    # The truth: the mean over many seeds on as many rows as a population has.
    whole = population.rows(30_000)
    once = np.ones((1, 30_000), np.int64)
    mean = [
        np.mean([each.at(once) for each in population.scores(whole, skill, 20, spread)])
        for skill in skills
    ]
    covered = 0
    for trial in range(trials):
        rows = population.rows(ROWS)
        forms = [each for skill in skills for each in population.scores(rows, skill, seeds, spread)]
        points, replicates = replicate(forms, ROWS, trial)
        ours, theirs = (
            scored(points[side], replicates[side])
            for side in (slice(None, seeds), slice(seeds, None))
        )
        found = estimate(GAIN, ours, theirs)
        covered += found.low <= mean[0] - mean[1] <= found.high
    assert 0.93 <= covered / trials <= 0.985, "for nominal 95 %"


def test_a_method_is_not_better_than_itself() -> None:
    population, comparisons, tasks, seeds = Population(2), 100, 4, 3
    false = 0
    for trial in range(comparisons):
        ps, values = [], []
        for task in range(tasks):
            rows = population.rows(ROWS)
            forms = population.scores(rows, 1.0, 2 * seeds, 0.4)
            points, replicates = replicate(forms, ROWS, [trial, task])
            found = estimate(
                GAIN,
                scored(points[:seeds], replicates[:seeds]),
                scored(points[seeds:], replicates[seeds:]),
            )
            ps.append(found.p)
            values.append(found)
        verdicts = [verdict(*each) for each in zip(values, holm(ps), strict=True)]
        false += "helps" in verdicts
    # The stated rate of false verdicts is 5 % for all tasks of a comparison together, half of them
    # `helps`: of 100 comparisons more than 6 have one with a probability of 1.4 %.
    assert false <= 6


def test_seeds_widen_the_interval() -> None:
    points = np.array([0.70, 0.74, 0.78])
    replicates = points[:, None] + np.random.default_rng(0).normal(0, 0.01, 500)
    ours, theirs = scored(points, replicates), scored(points - 0.05, replicates - 0.05)
    found = estimate(GAIN, ours, theirs)
    # By hand: the rows are the same for both, so only the seeds differ. Variance 0.0016 / 3 a side,
    # 4 degrees of freedom.
    assert found.value == pytest.approx(0.05) and found.covers_seeds
    half = 2.776445 * (2 * 0.0016 / 3) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.05 - half, 0.05 + half), rel=1e-4)
    one = estimate(GAIN, scored(points[:1], replicates[:1]), scored(points[:1], replicates[1:2]))
    assert not one.covers_seeds


def test_equal_runs_have_no_gain() -> None:
    same = scored(np.array([0.5]), np.full((1, 100), 0.5))
    found = estimate(GAIN, same, same)
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert verdict(found, found.p) == "no difference shown"


def test_the_relative_gain_knows_which_way_is_better() -> None:
    gain = relative_gain(np.array([1.0, -1.0]))
    # Accuracy 0.5 to 0.6: +20 %; perplexity 10 to 9: +10 %.
    assert gain(np.array([0.6, 9.0]), np.array([0.5, 10.0])) == pytest.approx(0.15)


def test_holm_adjusts_for_the_number_of_comparisons() -> None:
    # The example of R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm").
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_every_resample_draws_as_many_units_as_there_are() -> None:
    found = draw(7, 50, 0)
    assert found.shape == (50, 7) and (found.sum(axis=1) == 7).all()
    assert (found == draw(7, 50, 0)).all() and (found != draw(7, 50, 1)).any()
