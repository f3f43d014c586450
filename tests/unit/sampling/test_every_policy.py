"""The mathematics of the sampling policies, over every registered policy where it holds for all."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chisquare

from mtlcli.config.sampling import samplings
from mtlcli.errors import UserError
from mtlcli.sampling.base import GradientNoise, RandomSampling, Sampling, TaskSize
from mtlcli.sampling.curriculum import CurriculumSampling, Phase

SIZES = {
    "big": TaskSize(6400, 200, 32),
    "middle": TaskSize(1600, 50, 32),
    "small": TaskSize(40, 5, 8),
}
STEPS = 2000
SCORES = {"big": 0.9, "middle": 0.5, "small": 0.2}
PHASES = [
    Phase(tasks={"big": 1.0}, length=0.25),
    Phase(tasks={"big": 1.0, "small": 3.0}, length=500.0),
    Phase(tasks={"middle": 2.0, "small": 1.0, "big": 1.0}),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "curriculum": {"phases": PHASES},
    "dynamic": {"references": {"big": 0.8, "middle": 0.9}, "floor": 0.1},
    "pike": {"zeta_gain": 1.0, "zeta_noise": 1.0, "floor": 0.1},
}
ALPHAS = 1 - 0.8 * np.arange(STEPS) / (STEPS - 1)
POWERS = np.array([6400.0, 1600.0, 40.0])[:, None] ** ALPHAS
SHARES: dict[str, list[float]] = {
    "all": [1, 1, 1],
    "annealed": (POWERS / POWERS.sum(0)).mean(1).tolist(),
    # A quarter of all steps, then a quarter of 1 to 3, then half of 1, 2 and 1.
    "curriculum": [0.25 + 0.25 * 0.25 + 0.5 * 0.25, 0.5 * 0.5, 0.25 * 0.75 + 0.5 * 0.25],
    # Gaps of 0 (above its reference), 0.4 and 0.8 (of the perfect score).
    "dynamic": [0.1 / 3, 0.1 / 3 + 0.9 / 3, 0.1 / 3 + 0.9 * 2 / 3],
    # Twice exponents of 2 - 1/2, 1 - 1/2 and 1/2 - 1.
    "pike": (0.1 / 3 + 0.9 * softmax([3.0, 1.0, -1.0])).tolist(),
    "proportional": [200 / 255, 50 / 255, 5 / 255],
    # The last task, and a tenth of the steps for the others together.
    "replay": [0.05, 0.05, 0.9],
    "round_robin": [1 / 3, 1 / 3, 1 / 3],
    "sqrt": [80 / (120 + 40**0.5), 40 / (120 + 40**0.5), 40**0.5 / (120 + 40**0.5)],
    "temperature": [80 / (120 + 40**0.5), 40 / (120 + 40**0.5), 40**0.5 / (120 + 40**0.5)],
    "uniform": [1 / 3, 1 / 3, 1 / 3],
}
"""The share of the steps that each task of SIZES is in, by the formula of each policy."""


def build(name: str, seed: int = 0, steps: int = STEPS, **options: object) -> Sampling:
    config = samplings.configs[name](**(options or OPTIONS.get(name, {})))
    policy: Sampling = samplings.implementation(name)(config, SIZES, seed)
    policy.fit(steps)
    return policy


def feed(policy: Sampling) -> Sampling:
    """The policy after it has learned from what a run tells it."""
    policy.note_results({"tasks": {name: {"main": score} for name, score in SCORES.items()}})
    for _ in range(2):
        policy.note_gradients(
            {
                "big": GradientNoise(2.0, 1.0),
                "middle": GradientNoise(1.0, 1.0),
                "small": GradientNoise(0.5, 2.0),
            }
        )
    return policy


def test_every_policy_has_a_formula_here() -> None:
    assert list(SHARES) == list(samplings)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", list(samplings))
def test_the_realised_share_is_that_of_the_formula(name: str, seed: int) -> None:
    policy = feed(build(name, seed))
    counts = Counter(task for step in range(STEPS) for task, _ in policy.plan(step))
    realised = [counts[task] / STEPS for task in SIZES]
    assert realised == pytest.approx(SHARES[name], abs=0.02)


@pytest.mark.parametrize("name", list(samplings))
def test_a_plan_is_a_pure_function_of_seed_step_and_state(name: str) -> None:
    one, other = feed(build(name)), build(name)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    steps = [700, 3, 254, 255, 256, 3, 0]
    forwards = {step: one.plan(step) for step in range(800)}
    assert [other.plan(step) for step in steps] == [forwards[step] for step in steps]
    assert all(
        examples == SIZES[task].batch_size for plan in forwards.values() for task, examples in plan
    )


@pytest.mark.parametrize("name", [name for name in samplings if name not in ("all", "round_robin")])
def test_another_seed_is_another_order(name: str) -> None:
    # A curriculum begins with one task alone.
    steps = range(600, 700)
    assert [build(name, 0).plan(step) for step in steps] != [
        build(name, 1).plan(step) for step in steps
    ]


@pytest.mark.parametrize("name", list(samplings))
def test_a_state_of_other_tasks_is_refused(name: str) -> None:
    state = feed(build(name)).state_dict()
    other = samplings.implementation(name)(
        samplings.configs[name](), {"big": SIZES["big"], "other": SIZES["small"]}, 0
    )
    if not state:
        with pytest.raises(ValueError, match="has no state"):
            other.load_state_dict({"x": 1})
        return
    with pytest.raises(ValueError, match="the run trains"):
        other.load_state_dict(state)


def test_proportional_meets_every_batch_once_an_epoch() -> None:
    policy = build("proportional")
    assert policy.steps_per_epoch == 255
    for epoch in range(3):
        counts = Counter(
            task for step in range(255 * epoch, 255 * (epoch + 1)) for task, _ in policy.plan(step)
        )
        assert counts == {"big": 200, "middle": 50, "small": 5}
    assert [policy.plan(step) for step in range(255)] != [
        policy.plan(step) for step in range(255, 510)
    ]


def test_replay_counts_epochs_of_the_last_task_and_can_leave_the_others_out() -> None:
    assert build("replay", share=0.5).steps_per_epoch == 10
    alone = build("replay", share=0.0)
    assert alone.steps_per_epoch == 5
    assert {task for step in range(500) for task, _ in alone.plan(step)} == {"small"}


def test_all_puts_every_task_into_every_step() -> None:
    policy = build("all")
    assert policy.plan(17) == [("big", 32), ("middle", 32), ("small", 8)]
    assert policy.steps_per_epoch == 200


def test_round_robin_takes_the_tasks_in_turn() -> None:
    policy = build("round_robin")
    assert [policy.plan(step)[0][0] for step in range(5)] == [*SIZES, "big", "middle"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 1.0}, np.array([6400, 1600, 40]) / 8040),
        ({"temperature": 2.0}, np.array([80, 40, 40**0.5]) / (120 + 40**0.5)),
        ({"temperature": 1.0, "cap": 1600}, np.array([1600, 1600, 40]) / 3240),
        ({"temperature": 1e9}, np.full(3, 1 / 3)),
    ],
)
def test_temperature_probabilities(options: dict[str, float], expected: np.ndarray) -> None:
    policy = build("temperature", **options)
    assert isinstance(policy, RandomSampling)
    np.testing.assert_allclose(policy.probabilities(0), expected, rtol=1e-6)


def test_each_single_draw_follows_the_probabilities() -> None:
    """The draws of a block depend on one another, but over many seeds the draw of any one step is
    uniform."""
    for step in (0, 63, 100):
        counts = Counter(
            build("temperature", seed, temperature=1.5).plan(step)[0][0] for seed in range(3000)
        )
        policy = build("temperature", temperature=1.5)
        assert isinstance(policy, RandomSampling)
        observed = [counts[task] for task in SIZES]
        assert chisquare(observed, 3000 * policy.probabilities(step)).pvalue > 1e-3


def test_annealed_goes_from_proportional_to_the_end() -> None:
    policy = build("annealed", steps=11, start=1.0, end=0.0)
    assert isinstance(policy, RandomSampling)
    np.testing.assert_allclose(policy.probabilities(0), np.array([6400, 1600, 40]) / 8040)
    np.testing.assert_allclose(
        policy.probabilities(5), np.array([80, 40, 40**0.5]) / (120 + 40**0.5)
    )
    np.testing.assert_allclose(policy.probabilities(10), np.full(3, 1 / 3))


def test_a_curriculum_without_phases_adds_task_after_task() -> None:
    policy = build("curriculum", steps=90, phases=[])
    assert isinstance(policy, RandomSampling)
    found = [policy.probabilities(step).tolist() for step in (0, 29, 30, 59, 60, 89)]
    third = 1 / 3
    assert found == [[1, 0, 0]] * 2 + [[0.5, 0.5, 0]] * 2 + [[third, third, third]] * 2
    assert policy.statistics(59) == {"phase": 2}


def test_a_phase_without_a_step_is_refused() -> None:
    with pytest.raises(UserError, match="phase 3 of 3 has none"):
        build("curriculum", steps=600)
    with pytest.raises(UserError, match="phase 1 of 3 has none"):
        build("curriculum", steps=2, phases=[])


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ([Phase(tasks={"bgi": 1.0, "small": 1.0, "middle": 1.0, "big": 1.0})],
         ["sampling.phases[0].tasks: the run does not train a task 'bgi'"]),
        ([Phase(tasks={"big": 1.0}), Phase(tasks={"middle": 1.0, "small": 1.0}, length=0.5)],
         ["sampling.phases[0].length: only the last phase can do without a length",
          "sampling.phases[1].length: the value has no effect: the last phase takes the rest of "
          "the run"]),
        ([Phase(tasks={"big": 1.0}, length=0.5), Phase(tasks={"middle": 1.0}, length=0.5),
          Phase(tasks={"big": 1.0})],
         ["sampling.phases: no phase trains 'small'",
          "sampling.phases: the shares of the phases leave nothing for the last one"]),
        ([Phase(tasks={"big": 1.0}, length=1.5), Phase(tasks=dict.fromkeys(SIZES, 1.0))],
         ["sampling.phases[0].length: 1.5 is neither a share below 1 nor a whole number of "
          "steps"]),
    ],
)  # fmt: skip
def test_phases_that_cannot_work_are_named(phases: list[Phase], expected: list[str]) -> None:
    found = CurriculumSampling(phases=phases).problems(list(SIZES))
    assert [f"{problem.where}: {problem.what}" for problem in found] == expected


def test_dynamic_is_uniform_until_it_knows_and_where_nobody_is_behind() -> None:
    policy = build("dynamic", floor=0.0)
    assert isinstance(policy, RandomSampling)
    assert policy.probabilities(0).tolist() == [1 / 3] * 3
    policy.note_results({"tasks": {name: {"main": 1.0} for name in SIZES}})
    assert policy.probabilities(0).tolist() == [1 / 3] * 3
    feed(policy)
    np.testing.assert_allclose(policy.probabilities(0), np.array([0.1, 0.5, 0.8]) / 1.4)


def test_pike_takes_exponentiated_steps_along_its_bound() -> None:
    policy = build("pike", zeta_gain=0.3, zeta_noise=0.8, floor=0.0)
    assert isinstance(policy, RandomSampling)
    assert policy.probabilities(0).tolist() == [1 / 3] * 3
    noises = [GradientNoise(4.0, 1.0), GradientNoise(-0.5, 2.0), GradientNoise(1.0, 5.0)]
    policy.note_gradients(dict(zip(SIZES, noises, strict=True)))
    expected = softmax([0.3 * 4 - 0.4 * 1, -0.3 * 0.5 - 0.4 * 2, 0.3 * 1 - 0.4 * 5])
    np.testing.assert_allclose(policy.probabilities(7), expected, rtol=1e-9)
    assert [policy.gradient_batches(step) for step in (0, 1, 99, 100)] == [4, 0, 0, 4]
