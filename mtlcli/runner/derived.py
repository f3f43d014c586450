"""A run folder whose model was made out of those of other runs, without training: what `mtl merge`
and `mtl compress` write, and other verbs read as they read any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mtlcli.config import Config, own_code
from mtlcli.config.snapshot import config_text
from mtlcli.evaluation.saved_run import evaluate_path
from mtlcli.prepare.prepare import Prepared
from mtlcli.pulse import doing
from mtlcli.rundir import checkpoint
from mtlcli.rundir.ending import held_to_the_end, undone_on_failure
from mtlcli.rundir.folder import RunFolder
from mtlcli.training.state import TrainState


def write_derived(
    folder: RunFolder,
    config: Config,
    prepared: Prepared,
    tensors: dict[str, Tensor],
    *,
    command: list[str],
    record: dict[str, Any],
    log: str,
    say: Callable[[str], None],
    measure: Callable[[dict[str, Any]], dict[str, Any]] = lambda results: {},
) -> dict[str, Any]:
    """Write a run folder that holds a model, evaluate it as `mtl eval` will, and return the content
    of its results.json.

    `config`: of the new run. `prepared`: its tasks, with its backbone. `tensors`: of the model.
    `record`: what environment.json says beside what it says of every run. `log`: the line of
    log.txt. `measure`: returns entries of results.json for those of the evaluation, once the folder
    can be read.
    """
    with undone_on_failure(folder):
        folder.create()
    with held_to_the_end(folder):
        folder.write_status("running")
        folder.write_config(config)
        folder.write_backbone(prepared.files)
        folder.write_environment(
            command=command,
            data={"source": prepared.source.kind, "tasks": prepared.source.record()},
            seed=config.seed,
            methods=own_code.record(config),
            **record,
        )
        folder.log.write_text(f"{log}\n", encoding="utf-8")
        state = TrainState(evaluated=0, best_step=0, positions=dict.fromkeys(config.tasks, 0))
        checkpoint.write(
            folder.checkpoints, tensors, {}, state.to_json(), config=config_text(config)
        )
        doing("evaluating the new model")
        # As `mtl eval` will: the same numbers, and a proof that the folder can be read. The rows
        # stay those of the runs, where predictions would ask for all.
        limit = config.data.max_eval_rows
        results = evaluate_path(
            folder.path,
            overrides=[] if limit is None else [f"data.max_eval_rows={limit}"],
            predictions=folder.predictions,
            say=say,
        )
        results |= measure(results) | {
            "throughput": state.totals.throughput,
            "weighting": {"name": config.weighting.name},
            "gradients": None,
            "affinity": None,
            "cost": {"flops_per_example": None, "peak_memory": None},
        }
        folder.write_results(results)
        folder.write_status("finished")
    return results
