"""The training of a run: the loop over its steps, with evaluations and checkpoints between them.

The loop evaluates, saves and stops before a step, so that the last step needs no second path.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch

from mtlcli import commands
from mtlcli.distributed.process_group import Ranks
from mtlcli.distributed.signals import Asked
from mtlcli.errors import Interrupted, NotFinite, count_of
from mtlcli.evaluation.evaluate import Scores, evaluate
from mtlcli.evaluation.predictions import write_predictions
from mtlcli.models.multitask import Trunk
from mtlcli.models.shards import Wholes
from mtlcli.rundir import checkpoint
from mtlcli.seeds import step_seed
from mtlcli.training.analysis.affinity import Affinity
from mtlcli.training.analysis.conflicts import Conflicts
from mtlcli.training.analysis.gradient_noise import measure_noise
from mtlcli.training.captured import CapturedSteps, capture_steps
from mtlcli.training.finite import require_finite
from mtlcli.training.optim import Unfreezing, build_optimizer, schedule_lr_factor, set_lr
from mtlcli.training.plateau import Plateau, watched_tasks
from mtlcli.training.restore import WEIGHTING_TENSORS, restore
from mtlcli.training.run import Run
from mtlcli.training.state import Stage, TrainState, Window
from mtlcli.training.step import Backward, Outcome
from mtlcli.training.task_batch import Batches
from mtlcli.training.update import Updated, choose_update
from mtlcli.weighting.base import Step, all_finite


class Trainer:
    """The training of a run, from its first step or from a checkpoint."""

    def __init__(self, run: Run, resumed: checkpoint.Checkpoint | None = None) -> None:
        """`resumed`: continue from this checkpoint, as if there had been no break. Raises UserError
        when the checkpoint belongs to another run."""
        self.run, self.config, self._anew = run, run.config, resumed is None
        optim = run.config.optim
        watched = watched_tasks(optim, list(run.streams))
        self.optimizer = build_optimizer(optim, run.model, run.weighting, watched)
        self._names = {parameter: name for name, parameter in run.model.named_parameters()} | {
            parameter: f"weighting/{name}"
            for name, parameter in run.weighting.named_parameters().items()
        }
        self.update = choose_update(
            self.optimizer,
            run.weighting,
            optim.clip,
            run.ranks.device,
            fast=run.config.runner.fast != "off",
        )
        self._updated: deque[Updated] = deque()
        """The steps whose numbers are not known yet, the oldest first."""
        self._has_statistics = type(run.model.trunk).measures is not Trunk.measures
        self._since = 0.0
        """The time up to which steps have been timed."""
        self.state = TrainState(positions=dict.fromkeys(run.streams, 0))
        self._saved: int | None = None
        """The step of the newest checkpoint that holds the present state."""
        self._verified: int | None = None
        """The step whose tensors were last found to be finite."""
        self.stopped = ""
        """The reason for which the caller of the run has stopped it; empty: it has not."""
        if resumed is not None:
            self.state = restore(
                resumed,
                model=run.model,
                optimizer=self.optimizer,
                names=self._names,
                weighting=run.weighting,
                tasks=run.streams,
                steps=run.steps,
                stages=run.stages,
            )
            self._saved = self.state.step
        self._enter_stage(anew=self._anew)
        self._plateau = Plateau(optim, list(run.streams), self.state.plateau)
        self._conflicts = Conflicts(self.state.conflicts)
        self._affinity = Affinity(
            self.state.affinity, self.backward.passes, run.fetch, list(run.streams)
        )
        self._unfreezing = (
            Unfreezing(run.model, run.config.optim.unfreeze_every)
            if run.config.optim.unfreeze_every is not None
            else None
        )

    def train(self) -> dict[str, Any]:
        """Train to the last step or until patience runs out. Return the content of results.json:
        the scores of the best checkpoint. Raises Interrupted after saving when a signal asks for
        it."""
        self._say_stage()
        if self._anew:
            self._say_remarks()
        run = self.run
        run.console.start(list(run.model.tasks), self.state.step, run.steps)
        while True:
            signal = self.maybe_evaluate()
            done = self._is_done()
            self.maybe_save(stopping=bool(signal) or done)
            if signal:
                run.saver.wait()
                raise Interrupted(signal, self.state.step, commands.resume(run.folder.path))
            if done:
                self._say_end()
                return self.results()
            run.saver.check()
            self.maybe_enter_next_stage()
            self.train_step()

    # --------------------------------------------------------------------------------------------
    # a step

    def train_step(self) -> None:
        """Make one step: fetch, forward and backward, check, clip, update. Then observe and log
        the steps whose numbers are known."""
        if not self._updated:
            self._since = time.perf_counter()
        self._begin_step()
        batches = self.fetch()
        step = self._describe_step(batches)
        if self._updated and self.run.weighting.needs_last_step(step):
            self.conclude()
        if self.run.weighting.validates(step):
            self._validate(step)
        try:
            self._set_lr()
            self._updated.append(self._pass_and_update(batches, step))
        except NotFinite as error:
            self.conclude()
            self._leave_out(error)
        self.state.step += 1
        # Statistics of the trunk must not be those of a later step.
        at_once = self._has_statistics and self._is_logged(self.state.step)
        self.conclude(0 if at_once else self.update.lag)

    def conclude(self, but: int = 0) -> None:
        """Observe and log the steps that have been updated, but for the newest `but` of them, once
        their numbers are known."""
        while len(self._updated) > but:
            updated = self._updated.popleft()
            try:
                norm = updated.norm()
            except NotFinite as error:
                self._leave_out(error)
                continue
            self.observe(updated.batches, updated.step)
            self.log(updated, norm)

    def _begin_step(self) -> None:
        """Set the model up for the step, and measure affinity if it is time."""
        # Setting the mode again would visit every module of the model, in every step.
        if not self.run.model.training:
            self.run.model.train()
        if self.run.model.augmentation is not None:
            self.run.model.augmentation.begin_step(self.state.step, self.run.steps)
        if self._unfreezing is not None:
            self._unfreezing.apply(self.state.step)
        if count := self.run.stages.gradient_batches(self.state.stage, self.state.step):
            self._measure_gradients(count)
        if due(self.config.logger.affinity, self.state.step):
            self._affinity.measure(self.state, lr=self.optimizer.param_groups[0]["peak"])

    def _measure_gradients(self, count: int) -> None:
        """Let the sampling learn from the gradients of the next `count` batches of each task of the
        stage, without dropout and without moving the streams on."""
        run, state = self.run, self.state
        run.model.eval()
        found = {}
        for name in run.stages.tasks(state.stage):
            first = state.positions[name]
            batches = [run.fetch(name, first + number) for number in range(count)]
            found[name] = measure_noise(self.backward.passes, name, batches)
        run.model.train()
        if all_finite(number for each in found.values() for number in (each.square, each.variance)):
            run.stages.note_gradients(state.stage, found)
        else:
            what = "a gradient is not finite, and the sampling learns nothing from it"
            run.console.say(f"warning: step {state.step}: {what}")

    def fetch(self) -> Batches:
        """Return the next batch of each task that the step holds, and move the streams on."""
        batches: Batches = {}
        for name, _ in self.run.stages.plan(self.state.stage, self.state.step):
            batches[name] = self.run.fetch(name, self.state.positions[name])
            self.state.positions[name] += 1
        return batches

    def _describe_step(self, batches: Batches) -> Step:
        """Return the facts about the step that the weighting uses."""
        return Step(
            number=self.state.step,
            total=self.run.steps,
            epoch=self.state.step // self.run.stages.steps_per_epoch,
            seed=self.config.seed,
            tasks=list(batches),
        )

    def _pass_and_update(self, batches: Batches, step: Step) -> Updated:
        """Run the passes of the step and update."""
        seed_dropout(self.config.seed, step.number, self.run.ranks)
        captured, probing = self._captured, due(self.config.logger.probe, step.number)
        if isinstance(captured, CapturedSteps) and not probing and captured.takes(batches):
            return captured(batches, step)
        outcome = self.forward_backward(batches, step)
        return self.update(self.backward.passes.parameters, step, batches, outcome)

    def forward_backward(self, batches: Batches, step: Step) -> Outcome:
        """Run the passes of the step, which leave its gradient in `.grad`."""
        self.optimizer.zero_grad()
        if due(self.config.logger.probe, step.number):
            return self.backward.probe(batches, step)
        return self.backward(batches, step)

    def _validate(self, step: Step) -> None:
        """Let the weighting learn from the losses of a validation batch of each task, measured
        without dropout. The number of the batch is that of the step."""
        model = self.run.model
        batches = {name: self.run.fetch_validation(name, step.number) for name in step.tasks}
        model.eval()
        losses = self.backward.passes.losses(batches)
        model.train()
        if not self.run.weighting.observe_validation(step, losses):
            what = "a validation loss is not finite, and the weighting learns nothing from it"
            self.run.console.say(f"warning: step {step.number}: {what}")

    def _leave_out(self, error: NotFinite) -> None:
        """Go on without the step, or raise the error if `runner.skip_nonfinite` steps have been
        left out already."""
        if self.state.skipped == self.config.runner.skip_nonfinite:
            raise error
        self.state.skipped += 1
        problem = error.problems[0]
        self.run.console.say(f"warning: {problem.where}: {problem.what}; the step is left out")

    def _set_lr(self) -> None:
        """Give the optimiser the learning rate of the step."""
        stage = self.state.stage
        factor = schedule_lr_factor(
            self.config.optim,
            self.state.step - stage.begin,
            self.run.stages.end(stage, self.run.steps) - stage.begin,
        )
        set_lr(self.optimizer, factor, self._plateau.factors())

    def observe(self, batches: Batches, step: Step) -> None:
        """Let the weighting learn from the step, and count its conflicts."""
        weighting = self.run.weighting
        self._conflicts.add(step, weighting.tasks)
        weighting.observe(step)
        if weighting.losses_after_step:
            # Use the same dropout as before the update, so that only the update makes a difference.
            seed_dropout(self.config.seed, step.number, self.run.ranks)
            if not weighting.observe_after(step, self.backward.passes.losses(batches)):
                what = (
                    "a loss is not finite after the update, and the weighting learns nothing "
                    "from it"
                )
                self.run.console.say(f"warning: step {step.number}: {what}")

    def _is_logged(self, done: int) -> bool:
        """Return whether a metrics row is due after `done` steps."""
        return done % self.config.logger.every == 0 or done == self.run.steps

    def log(self, updated: Updated, norm: float) -> None:
        """Count a step whose gradient has the norm `norm`, and write a metrics row if it is
        time."""
        state, run = self.state, self.run
        seconds, self._since = time.perf_counter() - self._since, time.perf_counter()
        batches, outcome, done = updated.batches, updated.outcome, updated.step.number + 1
        assert updated.step.losses is not None
        state.totals.add(batches, outcome.padded, seconds)
        state.window.add(batches, updated.step.losses, outcome, seconds)
        run.console.progress(done)
        if self._is_logged(done):
            statistics = self._statistics()
            if run.ranks.is_main:
                left = state.totals.seconds / done * (run.steps - done)
                row = {
                    "step": done,
                    **state.window.row(),
                    **statistics,
                    **self._sampling_statistics(updated.step.number),
                    **self._lr_factors(),
                    "lr": updated.lr,
                    "gradient_norm": norm,
                    "seconds": round(state.totals.seconds, 3),
                    "seconds_left": round(left, 1),
                }
                run.folder.append_metrics(row)
                run.console.metrics(row)
                run.tracking.metrics(row)
            state.window = Window()

    # --------------------------------------------------------------------------------------------
    # between steps

    def maybe_evaluate(self) -> int:
        """Evaluate and note the scores, if it is time. Return the number of the signal that asks
        the run to stop, or 0."""
        run, state = self.run, self.state
        if signal := run.interrupt.signal_received(run.ranks):
            self.conclude()
            return signal
        new = state.step > 0 and state.step != state.evaluated
        if not new or not (state.step % run.eval_every == 0 or state.step == run.steps):
            return 0
        self.conclude()
        self._verify()
        try:
            found, scores = self._evaluate()
        except Asked:
            return run.interrupt.signal_received(run.ranks)
        state.note_results(found)
        # If the run was resumed from a checkpoint of this step, that checkpoint does not contain
        # these scores: save it again.
        self._saved = None
        run.stages.note_results(state.stage, found)
        run.console.scores(state.step, found, best=state.best_step == state.step)
        for line in self._plateau.note_results(found, run.stages.tasks(state.stage)):
            run.console.say(line)
        results = self.results()
        if run.ranks.is_main:
            if state.best_step == state.step:
                # Before the results, which the predictions have to fit.
                self._write_predictions(scores)
            run.folder.append_scores(state.step, found)
            run.folder.write_results(results)
            run.tracking.scores(state.step, found)
        if run.watch is not None and state.step != run.steps:
            self.stopped = run.watch(state.step, found)
        return 0

    def _write_predictions(self, scores: dict[str, dict[str, Scores]]) -> None:
        """Write the predictions of the best step so far, which comparisons of runs read."""
        run = self.run
        write_predictions(
            run.folder.predictions,
            run.model.tasks,
            {
                name: {split: part.table for split, part in parts.items()}
                for name, parts in run.splits.items()
            },
            scores,
            then=run.folder.resume_advice(),
        )

    def _evaluate(self) -> tuple[dict[str, Any], dict[str, dict[str, Scores]]]:
        """Evaluate the validation splits. Return the results, and the scores with predictions
        (empty but on the first rank). Raises Asked when a signal comes: the resumed run repeats
        the evaluation, so waiting for its end is not worthwhile."""
        run = self.run

        def on_batch() -> None:
            if run.interrupt.signal_received(run.ranks):
                raise Asked

        scored, scores = evaluate(
            run.model,
            run.splits,
            calibration=run.calibration,
            step=self.state.step,
            eval_batch_size=self.config.runner.eval_batch_size,
            input_format=run.input_format,
            bf16=run.bf16,
            ranks=run.ranks,
            on_split=run.console.evaluating,
            on_batch=on_batch,
        )
        run.source.note(scored, run.splits)
        head = {
            "format": 1,
            "data_source": run.source.kind,
            "split": self.config.data.fold_split or "validation",
            "step": self.state.step,
            "train_rows": run.source.train_rows(),
            "precision": self.config.runner.precision,
        }
        throughput = self.state.totals.throughput
        more = {"throughput": throughput, "parameters": run.model.parameter_counts()}
        return head | scored | more, scores

    def _is_stale(self) -> bool:
        """Return whether patience has run out."""
        patience = self.config.runner.patience
        return patience is not None and self.state.stale >= patience

    def _is_stage_over(self) -> bool:
        return self.run.stages.is_over(self.state.stage, self.state.step, self.run.steps)

    def _is_done(self) -> bool:
        """Return whether the run is over."""
        return (
            self.state.step == self.run.steps
            or bool(self.stopped)
            or self._is_stale()
            or (self._is_stage_over() and self.run.stages.is_last(self.state.stage))
        )

    def maybe_save(self, *, stopping: bool) -> None:
        """Save a checkpoint of the present state, if it is time or the run is `stopping` and there
        is none yet."""
        step = self.state.step
        every = self.config.runner.save_every or self.run.eval_every
        # Save the best step so far as well: `mtl eval RUN` reads its checkpoint.
        worth = step > 0 and (step % every == 0 or step == self.state.best_step)
        if step != self._saved and (stopping or worth):
            self.conclude()
            if self.run.ranks.is_main or self.run.sharded:
                self._save()
            self._saved = step

    def _save(self) -> None:
        """Save a checkpoint of the present state. Where parameters are shards, all ranks help the
        first one to put them together."""
        self._verify()
        tensors = (
            Wholes(self.run.model.state_dict()),
            Wholes(self._kept_tensors()),
        )
        if not self.run.ranks.is_main:
            for each in tensors:
                each.take_part()
            return
        self.state.weighting = self.run.weighting.state_dict()
        self.state.sampling = self.run.stages.state_dict(self.state.stage)
        self.run.saver.save(*tensors, self.state.to_json(), best=self.state.best_step)

    def _kept_tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors that the optimiser and the weighting keep."""
        kept = self.run.weighting.tensors()
        return self.optimizer.tensors(self._names) | {
            f"{WEIGHTING_TENSORS}{name}": tensor for name, tensor in kept.items()
        }

    def _verify(self) -> None:
        """Raise RunError when a tensor of the next checkpoint is not finite, before anything is
        written about this step."""
        if self.state.step != self._verified:
            require_finite(
                dict(self.run.model.named_parameters()) | self._kept_tensors(),
                f"step {self.state.step}",
                "lower optim.lr, or set optim.clip; then go on from the checkpoint before",
            )
            self._verified = self.state.step

    def maybe_enter_next_stage(self) -> None:
        """Enter the next stage, if the present one is over. A checkpoint of this step resumes here
        too, because its state shows that the stage is over."""
        if self._is_stage_over():
            self.conclude()
            self.state.stage = Stage(self.state.stage.number + 1, begin=self.state.step)
            self._enter_stage(anew=True)
            self._say_stage()

    def _enter_stage(self, *, anew: bool) -> None:
        """Begin the present stage (`anew`), or continue in it. The shared parameters are those of
        the tasks that this stage trains."""
        run = self.run
        run.model.enter(self.state.stage.number, anew=anew)
        run.model.train()
        self.backward = Backward(
            run.model,
            run.weighting,
            run.ranks,
            bf16=run.bf16,
            seed=self.config.seed,
            tasks=run.stages.tasks(self.state.stage),
            together=self.config.runner.together
            and not run.sharded
            and run.model.augmentation is None,
            max_tokens=run.max_tokens,
            input_format=run.input_format,
            read=self.update.lag == 0,
        )
        self._captured = capture_steps(run, self.backward, self.update)

    # --------------------------------------------------------------------------------------------
    # what the user reads

    def _say_stage(self) -> None:
        if len(self.run.stages) > 1:
            self.run.console.say(self.run.stages.describe(self.state.stage, self.run.steps))

    def _say_remarks(self) -> None:
        run = self.run
        if isinstance(self._captured, str):
            run.console.say(f"steps are launched kernel by kernel, since {self._captured}")
        for line in (
            *run.weighting.remarks(run.steps, run.stages.steps_per_epoch),
            *(self._unfreezing.remarks(run.steps) if self._unfreezing else []),
        ):
            run.console.say(line)

    def _say_end(self) -> None:
        """Wait for the last checkpoint. Say why the run ends before its last step, and whether its
        best checkpoint is at fault."""
        run, state = self.run, self.state
        if self.stopped:
            run.console.say(f"stopped at step {state.step}: {self.stopped}")
        elif state.step != run.steps:
            stale = state.stale if self._is_stale() else state.stage.stale
            run.console.say(f"stopped: {count_of(stale, 'evaluation')} without a better average")
        run.saver.wait()
        if run.ranks.is_main and (fault := run.folder.best_fault(state.best_step)):
            run.console.say(
                f"warning: {fault}; results.json is about it, and mtl eval will refuse it"
            )

    def results(self) -> dict[str, Any]:
        """Return the content of results.json."""
        return self.state.best | {
            "throughput": self.state.totals.throughput,
            "weighting": {
                "name": self.config.weighting.name,
                **self.run.weighting.report(),
            },
            "gradients": self._conflicts.report(),
            "affinity": self._affinity.report(),
            **self._statistics(),
        }

    def _statistics(self) -> dict[str, Any]:
        """Return the statistics of the sharing strategy, if it has any."""
        found = self.run.model.trunk.measures()
        return {"sharing": found} if found else {}

    def _lr_factors(self) -> dict[str, Any]:
        """Return the factors of the tasks' learning rates, if any follows the task's progress."""
        found = self._plateau.factors()
        return {"lr_factors": found} if found else {}

    def _sampling_statistics(self, step: int) -> dict[str, Any]:
        """Return the statistics of the sampling policy at a step, if it has any."""
        found = self.run.stages.statistics(self.state.stage, step)
        return {"sampling": found} if found else {}


def seed_dropout(seed: int, step: int, ranks: Ranks) -> None:
    """Make dropout a pure function of (seed, step, rank), so that no random state has to be
    saved."""
    number, device = step_seed(seed, step, ranks.rank), ranks.device
    # `torch.manual_seed` gives the same numbers, but it also formats a traceback for each kind of
    # device that is not in use.
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(number)


def due(every: int | None, step: int) -> bool:
    """Return whether something that happens every n-th step (None: never) happens now."""
    return every is not None and step % every == 0
