"""Reptile (Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms", algorithms 1
and 2), for language tasks: Dou, Yu & Anastasopoulos 2019, "Investigating Meta-Learning Algorithms
for Low-Resource Natural Language Understanding Tasks".

A copy of the parameters p takes k steps of gradient descent on a task, with the rate a:

    p_0 = p,   p_i = p_(i-1) - a grad L_t(p_(i-1); batch i)
    gradient of task t = (p - p_k) / a = sum_i grad L_t(p_(i-1); batch i)

With k = 1 this is joint training. Beyond that, its expectation has a term that raises the inner
product of the gradients of different batches of a task (the paper, section 5.1): steps on some rows
help on others. As in the paper, section 2, the gradient goes to the optimiser of the run.
Differences: batch i is a part of the task's batch, so that a step reads no more rows than one of
joint training; the inner optimiser is plain gradient descent, where the paper has Adam without
momentum; tasks come as `sampling` says, `all` of them or one in a step. Heads of tasks take part:
a copy adapts the head as well, and the head is updated like the rest.
"""

from __future__ import annotations

from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.weighting import weightings
from mtlcli.weighting.inner_steps import InnerSteps, InnerStepsWeighting


@weightings.register("reptile", "Reptile")
@section
class ReptileWeighting(InnerStepsWeighting):
    """The way that a few steps on each task lead, taken as its gradient (Nichol et al. 2018).

    When it helps: as a beginning for other tasks that have few examples. On the tasks that are
    trained it has nothing over joint training.

    Cost: that of a step whose batch is cut into as many micro-batches, without packed or mixed
    batches, and a copy of the parameters.
    """

    name: Literal["reptile"] = "reptile"
    """Method."""


class Reptile(InnerSteps):
    """The difference between the parameters and their copy after the inner steps."""

    looks_ahead = False
