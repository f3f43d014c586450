"""First-order MAML (Finn, Abbeel & Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation
of Deep Networks", section 5.2), for language tasks: Dou, Yu & Anastasopoulos 2019, "Investigating
Meta-Learning Algorithms for Low-Resource Natural Language Understanding Tasks".

A copy of the parameters p takes k steps of gradient descent on a task, with the rate a, and the
gradient of a further batch is taken there, without the derivative of the steps themselves:

    p_0 = p,   p_i = p_(i-1) - a grad L_t(p_(i-1); batch i)
    gradient of task t = grad L_t(p_k; batch k + 1)

Differences: the k + 1 batches are parts of the task's batch, so that a step reads no more rows than
one of joint training; tasks come as `sampling` says, `all` of them or one in a step. Heads of tasks
take part: a copy adapts the head as well, and the head is updated like the rest.
"""

from __future__ import annotations

from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.weighting import weightings
from mtlcli.weighting.inner_steps import InnerSteps, InnerStepsWeighting


@weightings.register("fomaml", "FirstOrderMAML")
@section
class FirstOrderMAMLWeighting(InnerStepsWeighting):
    """The gradient of each task where a few steps on the task lead (Finn et al. 2017).

    When it helps: as a beginning for other tasks that have few examples. On the tasks that are
    trained it has nothing over joint training.

    Cost: that of a step whose batch is cut into as many micro-batches, without packed or mixed
    batches, and a copy of the parameters.
    """

    name: Literal["fomaml"] = "fomaml"
    """Method."""

    @property
    def inner_batches(self) -> int:
        """The inner steps, and the batch whose gradient is taken behind them."""
        return self.inner_steps + 1


class FirstOrderMAML(InnerSteps):
    """The gradient of a further batch at the parameters to which the inner steps lead."""

    looks_ahead = True
