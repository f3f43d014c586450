"""The gradient of a step: against autograd on the plain weighted sum, and the same however the
batch is cut."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mtlcli.config import weightings
from mtlcli.config.section import replaced
from mtlcli.data.batches import InputFormat
from mtlcli.distributed.process_group import Ranks
from mtlcli.errors import NotFinite, RunError
from mtlcli.training.finite import finite_gradient_norm
from mtlcli.training.step import Backward, Outcome
from mtlcli.training.task_batch import TaskBatch, build_task_batch
from mtlcli.training.trained_parameters import TrainedParameters
from tests.small import small_data, small_model, small_step
from tests.trajectory import OPTIONS

ALONE = Ranks(0, 1, torch.device("cpu"))


def batches(  # type: ignore[no-untyped-def]
    model, features, accumulation: int = 1, ranks: Ranks = ALONE, first: int = 0
) -> dict[str, TaskBatch]:
    return {
        name: build_task_batch(
            model.tasks[name],
            features[name],
            np.arange(first, first + 13),
            input_format=InputFormat(0, True),
            accumulation=accumulation,
            ranks=ranks,
        )
        for name in model.tasks
    }


def run_step(  # type: ignore[no-untyped-def]
    model, weighting, given: dict[str, TaskBatch], number: int = 0, *, probe=False, together=True
) -> Outcome:
    backward = Backward(model, weighting, ALONE, bf16=False, together=together)
    step = small_step(given, number)
    outcome = (backward.probe if probe else backward)(given, step)
    weighting.observe(step)
    return outcome


def losses_of(outcome: Outcome) -> dict[str, float]:
    return dict(zip(outcome.weights, outcome.losses.tolist(), strict=True))


def gradients(model) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
    return {
        name: p.grad.to_dense().clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


@pytest.mark.parametrize("sharing", ["hard", "none"])
@pytest.mark.parametrize("accumulation", [1, 3, 13])
def test_step_is_the_gradient_of_the_weighted_sum_of_means(sharing: str, accumulation: int) -> None:
    _, _, features, _ = small_data()
    weights = {"cola": 0.5, "stsb": 2.0}
    model, weighting = small_model(sharing, weights=weights)
    outcome = run_step(model, weighting, batches(model, features, accumulation))
    losses, used = losses_of(outcome), outcome.weights
    found = gradients(model)
    assert used == {"cola": 0.5, "stsb": 2.0, "squad": 1.0}

    model.zero_grad()
    whole = batches(model, features)
    plain = {name: model(name, batch.micro[0]).loss for name, batch in whole.items()}
    sum(used[name] * loss for name, loss in plain.items()).backward()  # type: ignore[union-attr]
    expected = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)
    for name, loss in plain.items():
        assert losses[name] == pytest.approx(loss.item(), rel=1e-5)


def test_losses_are_means_over_labelled_items() -> None:
    """Against the losses of torch on the logits, task by task."""
    _, _, features, _ = small_data()
    model, weighting = small_model("hard")
    model.eval()
    cut_batches = batches(model, features)
    losses = losses_of(run_step(model, weighting, cut_batches))
    with torch.no_grad():
        cola, stsb = cut_batches["cola"].micro[0], cut_batches["stsb"].micro[0]
        logits = next(iter(model.outputs("cola", cola).values()))
        assert losses["cola"] == pytest.approx(
            torch.nn.functional.cross_entropy(logits, cola.columns["label"]).item(), rel=1e-5
        )
        scores = next(iter(model.outputs("stsb", stsb).values())).reshape(-1)
        assert losses["stsb"] == pytest.approx(
            torch.nn.functional.mse_loss(scores, stsb.columns["score"].float()).item(), rel=1e-5
        )


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("together", [False, True])
def test_a_weighted_loss_is_torchs_on_the_whole_batch_however_it_is_cut(
    accumulation: int, together: bool
) -> None:
    """Weights of classes and smoothed labels: of two ranks, in micro-batches, and with the inputs
    of other tasks in one batch."""
    _, _, features, _ = small_data()
    model, weighting = small_model("hard")
    task = model.tasks["cola"]
    task._weights = [0.5, 3.0]  # type: ignore[attr-defined]
    task.config = replaced(task.config, {"label_smoothing": 0.2})
    model.eval()
    whole = batches(model, features)
    with torch.no_grad():
        batch = whole["cola"].micro[0]
        logits, labels = model.outputs("cola", batch)["logits"], batch.columns["label"]
    assert set(labels.tolist()) == {0, 1}
    expected = torch.nn.functional.cross_entropy(
        logits, labels, weight=torch.tensor([0.5, 3.0]), label_smoothing=0.2
    ).item()
    step = Backward(model, weighting, ALONE, bf16=False, together=together)
    total = 0.0
    for rank in range(2):
        ranks = Ranks(rank, 2, torch.device("cpu"))
        shares = batches(model, features, accumulation, ranks)
        total += losses_of(step(shares, small_step(shares)))["cola"]
    assert total == pytest.approx(expected, rel=1e-5)
    assert model("cola", batch).loss.item() == pytest.approx(expected, rel=1e-5)


def test_absent_tasks_have_no_gradient() -> None:
    _, _, features, _ = small_data()
    model, weighting = small_model("none")
    run_step(model, weighting, {"cola": batches(model, features)["cola"]})
    users = model.users()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (users[name] == ("cola",)), name


def test_learned_weights_get_the_gradient_of_their_objective() -> None:
    _, _, features, _ = small_data()
    model, weighting = small_model("hard", weighting="uncertainty")
    losses = losses_of(run_step(model, weighting, batches(model, features, 4)))
    # d/ds at s = 0: 1/2 - c L
    expected = [0.5 - (0.5 if name == "stsb" else 1.0) * losses[name] for name in losses]
    assert [p.grad.item() for p in weighting.parameters()] == pytest.approx(expected, rel=1e-5)  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------
# rows


def plain_rows(model, given: dict[str, TaskBatch]) -> dict[str, dict[str, torch.Tensor]]:  # type: ignore[no-untyped-def]
    """Each task's gradient by autograd alone: task -> parameter -> gradient."""
    rows = {}
    for name, batch in given.items():
        model.zero_grad()
        model(name, batch.micro[0]).loss.backward()
        rows[name] = gradients(model)
    model.zero_grad()
    return rows


def shared_names(model) -> list[str]:  # type: ignore[no-untyped-def]
    return [name for name, users in model.users().items() if len(users) > 1]


@pytest.mark.parametrize(
    ("method", "together"), [("static", True), ("static", False), ("gls", True)]
)
def test_a_probe_measures_the_gram_matrix_and_changes_nothing_to_the_bit(
    method: str, together: bool
) -> None:
    _, _, features, _ = small_data()
    weights = {"cola": 0.5, "stsb": 2.0}
    model, weighting = small_model("hard", weighting=method, weights=weights)
    given = batches(model, features)
    rows = plain_rows(model, given)
    quiet = run_step(model, weighting, given, together=together)
    without = gradients(model)
    model.zero_grad()
    probed = run_step(model, weighting, given, probe=True, together=together)
    assert quiet.gram is None and probed.gram is not None
    assert gradients(model).keys() == without.keys()
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, without[name]), name
    for one, first in enumerate(given):
        for other, second in enumerate(given):
            expected = sum(
                (rows[first][name].double() * rows[second][name].double()).sum()
                for name in shared_names(model)
            )
            assert probed.gram[one, other].item() == pytest.approx(
                float(expected), rel=1e-4, abs=1e-7
            )


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize(
    "options", [{}, {"rows": "bf16"}, {"last_layers": 1}, {"projection": 256}], ids=str
)
def test_balanced_gradient_is_the_weighted_sum_of_rows_and_private_ones_follow_their_loss(
    accumulation: int, options: dict[str, object]
) -> None:
    _, _, features, _ = small_data()
    importance = {"cola": 1.0, "stsb": 0.25, "squad": 2.0}
    model, weighting = small_model("hard", weighting="mgda", weights=importance, **options)
    given = batches(model, features)
    rows = plain_rows(model, given)
    outcome = run_step(model, weighting, batches(model, features, accumulation))
    found = gradients(model)
    tolerance = (
        {"atol": 2e-2, "rtol": 2e-2}
        if options.get("rows") == "bf16"
        else {"atol": 1e-5, "rtol": 1e-3}
    )
    for name, users in model.users().items():
        if len(users) > 1:
            expected = sum(
                outcome.weights[task] * rows[task][name] for task in given if name in rows[task]
            )
        else:
            expected = importance[users[0]] * rows[users[0]][name]
        torch.testing.assert_close(found[name], expected, **tolerance)


def test_weights_from_losses_reach_every_parameter() -> None:
    """The gradient of a scalarisation of the losses, by autograd through the whole of it."""
    _, _, features, _ = small_data()
    model, weighting = small_model("hard", weighting="gls")
    given = batches(model, features)
    run_step(model, weighting, batches(model, features, 3))
    found = gradients(model)
    model.zero_grad()
    losses = torch.stack([model(name, batch.micro[0]).loss for name, batch in given.items()])
    (len(losses) * losses.log().mean().exp()).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)


def test_between_balanced_steps_the_last_weights_are_used_again() -> None:
    _, _, features, _ = small_data()
    model, weighting = small_model("hard", weighting="mgda", every=3)
    given = batches(model, features)
    rows = plain_rows(model, given)
    first = run_step(model, weighting, given, 0)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.mul_(1.5)
    model.zero_grad()
    rows = plain_rows(model, given)
    second = run_step(model, weighting, given, 1)
    assert second.weights == first.weights and second.gram is None
    found = gradients(model)
    for name in shared_names(model):
        expected = sum(
            first.weights[task] * rows[task][name] for task in given if name in rows[task]
        )
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-3)
    model.zero_grad()
    assert run_step(model, weighting, given, 3).weights != first.weights


@pytest.mark.parametrize(
    "options", [{}, {"every": 2}, {"last_layers": 1}, {"projection": 16}], ids=str
)
@pytest.mark.parametrize("name", ["nash", "fairgrad"])
def test_no_update_of_shared_parameters_is_longer_than_max_norm(
    name: str, options: dict[str, int]
) -> None:
    """Nor where the weights are those of a step before, or come from an estimate. The weights of
    the outcome are those of the update."""
    _, _, features, _ = small_data()
    model, weighting = small_model("hard", weighting=name, max_norm=0.5, **options)
    for number in range(2):
        given = batches(model, features)
        rows = plain_rows(model, given)
        outcome = run_step(model, weighting, given, number)
        shared = {parameter: gradients(model)[parameter] for parameter in shared_names(model)}
        norm = torch.stack([gradient.norm() for gradient in shared.values()]).norm().item()
        assert norm == pytest.approx(0.5, rel=1e-4)
        for parameter, gradient in shared.items():
            expected = sum(
                outcome.weights[task] * rows[task][parameter]
                for task in given
                if parameter in rows[task]
            )
            torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-3)
        with torch.no_grad():  # Longer gradients in the second step.
            for parameter in model.heads.parameters():
                parameter.mul_(3.0)
        model.zero_grad()


@pytest.mark.parametrize("name", ["mgda", "sdmgrad", "fairgrad"])
def test_a_task_of_weight_0_does_not_stop_the_others(name: str) -> None:
    """The shared parameters are trained as if the run did not have the task; its own head stays."""
    _, _, features, _ = small_data()
    model, weighting = small_model("hard", weighting=name, weights={"stsb": 0.0})
    outcome = run_step(model, weighting, batches(model, features))
    assert outcome.weights["stsb"] == 0.0
    found = gradients(model)
    assert all(not found[key].any() for key in found if key.startswith("heads.stsb"))
    model.zero_grad()
    alone, others = small_model("hard", weighting=name)
    del others.tasks["stsb"]
    given = batches(alone, features)
    del given["stsb"]
    expected = run_step(alone, others, given)
    assert {name: outcome.weights[name] for name in given} == pytest.approx(
        expected.weights, rel=1e-4
    )
    for key in shared_names(model):
        torch.testing.assert_close(found[key], gradients(alone)[key], atol=1e-5, rtol=1e-3)


def test_what_the_weighting_learns_is_in_the_checked_norm() -> None:
    _, _, features, _ = small_data()
    model, weighting = small_model("hard", weighting="uncertainty")
    given = batches(model, features)
    run_step(model, weighting, given)
    norm = finite_gradient_norm(
        TrainedParameters(model, list(given)), weighting, small_step(given), given
    )
    every = [*gradients(model).values(), *(parameter.grad for parameter in weighting.parameters())]
    assert norm.item() == pytest.approx(
        torch.stack([each.norm() for each in every]).norm().item(), rel=1e-5
    )  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "said"), [(-200.0, "the weight of stsb is inf, as log_variance.stsb is -200")]
)
def test_a_learned_weight_that_is_not_finite_is_named(value: float, said: str) -> None:
    _, _, features, _ = small_data()
    model, weighting = small_model("hard", weighting="uncertainty")
    with torch.no_grad():
        weighting.named_parameters()["log_variance.stsb"].fill_(value)
    with pytest.raises(RunError, match=said) as caught:
        run_step(model, weighting, batches(model, features), 7)
    assert caught.value.problems[0].where == "step 7"


@pytest.mark.parametrize("name", list(weightings))
def test_a_step_left_out_because_it_is_not_finite_leaves_no_trace(name: str) -> None:
    """As with runner.skip_nonfinite: every method goes on with finite weights after a head that
    gave NaN."""
    _, _, features, _ = small_data()
    model, weighting = small_model("hard", weighting=name, **OPTIONS.get(name, {}))
    run_step(model, weighting, batches(model, features), 0)
    before = json.dumps(weighting.state_dict())
    bias = next(
        parameter for key, parameter in model.named_parameters() if key == "heads.stsb.output.bias"
    )
    kept = bias.detach().clone()
    for bad in (float("nan"), 1e25):
        with torch.no_grad():
            bias.fill_(bad)
        model.zero_grad()
        with pytest.raises(NotFinite, match="the loss of stsb is (nan|inf)"):
            run_step(model, weighting, batches(model, features), 1)
    assert json.dumps(weighting.state_dict()) == before
    with torch.no_grad():
        bias.copy_(kept)
    model.zero_grad()
    assert all(
        np.isfinite(weight)
        for weight in run_step(model, weighting, batches(model, features), 2).weights.values()
    )


def test_a_projection_is_unbiased() -> None:
    """Over many draws of the signs, the mean of the projected inner products is the exact one."""
    from mtlcli.training.gradient_rows import GradientRows, Projection

    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(40, 30))
    one, other = torch.randn(40, 30), torch.randn(40, 30)
    other = 0.5 * one + other

    def measured(seed: int) -> torch.Tensor:
        rows = GradientRows([parameter], ALONE)
        for gradient in (one, other):
            parameter.grad = gradient.clone()
            rows.append_from_grad()
        rows.agree_on_columns()
        return rows.gram_of_projection(Projection(64, seed))

    exact = torch.stack([one, other]).reshape(2, -1).double()
    exact = exact @ exact.T
    draws = torch.stack([measured(seed) for seed in range(200)])
    torch.testing.assert_close(draws.mean(0), exact, rtol=0.05, atol=20.0)
    assert draws.std(0)[0, 1] > 1.0, "one draw is no exact inner product"


def test_tasks_that_are_only_evaluated_share_nothing() -> None:
    _, _, features, _ = small_data()
    model, weighting = small_model("hard")
    del weighting.tasks["stsb"], weighting.tasks["squad"]
    assert Backward(model, weighting, ALONE, bf16=False).passes.parameters.shared == []
