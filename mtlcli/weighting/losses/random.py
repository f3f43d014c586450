"""Random loss weighting, RLW (Lin, Ye, Zhang & Tsang 2022, "Reasonable Effectiveness of Random
Weighting: A Litmus Test for Multi-Task Learning").

In every step the weights of its K tasks are drawn anew:

    normal:    w = K softmax(u),  u_t ~ N(0, 1)
    dirichlet: w = K p,           p ~ Dirichlet(1, ..., 1), every mixture equally likely

The paper's weights sum to 1; here to K, like those of the plain sum, so that one learning rate
suits both. Their expectation is the plain sum. The importance of a task multiplies what was drawn.
The authors' code (LibMTL) puts a draw of Dirichlet through a softmax once more, which keeps every
weight within a factor e of the others; here it stays as drawn. torchjd has the normal weights only
inside of a sum; the tests compare with it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from mtlcli.config.section import section
from mtlcli.config.weighting import Needs, WeightingConfig, weightings
from mtlcli.weighting.base import LossWeighting, Step


@weightings.register("random", "Random")
@section
class RandomWeighting(WeightingConfig):
    """Random weights, drawn anew in every step (RLW, Lin et al. 2022).

    When it helps: as a control: a method that is no better than random weights has shown nothing,
    the point of the paper.

    Cost: none.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True)
    """The requirements of the method."""
    name: Literal["random"] = "random"
    """Method."""
    distribution: Literal["normal", "dirichlet"] = "normal"
    """Distribution of the weights: the softmax of standard normal numbers (normal), or uniform over
    all mixtures of the tasks (dirichlet)."""


class Random(LossWeighting):
    """Weights that are a pure function of (seed, step)."""

    def weights(self, step: Step) -> dict[str, float]:
        """Return w_t times the importance."""
        import torch

        count, generator = len(step.tasks), step.generator()
        if self.config.distribution == "normal":
            shares = torch.randn(count, dtype=torch.float64, generator=generator).softmax(0)
        else:
            # Exponential numbers divided by their sum are Dirichlet(1, ..., 1); torch's own
            # Dirichlet takes no generator.
            draws = torch.empty(count, dtype=torch.float64).exponential_(generator=generator)
            shares = draws / draws.sum()
        return {
            name: self.tasks[name].weight * count * share
            for name, share in zip(step.tasks, shares.tolist(), strict=True)
        }
