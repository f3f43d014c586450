"""The export of a task of a run: a folder that other programs load, compared with the run's own
model before it is put in its place."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.utils import logging

import mtlcli
from mtlcli.disk import obstacle, write_whole, writing
from mtlcli.errors import RunError, UserError
from mtlcli.export import graph
from mtlcli.export.card import card
from mtlcli.export.library import NoClass, library_config, library_model, writer
from mtlcli.export.network import (
    KINDS,
    PER_TOKEN,
    Probe,
    TaskNetwork,
    difference,
    expected,
    given,
    merged,
)
from mtlcli.export.own_code import coded_model, write_code
from mtlcli.export.saved import SavedTask, open_task
from mtlcli.export.tokenizer import differing_text, library_tokenizer
from mtlcli.export.usage import usage
from mtlcli.models.backbone import Backbone
from mtlcli.models.pruned import FIELD, unpruned
from mtlcli.tasks.base import LibraryHead

RECORD = "mtl_export.json"
"""The file by which an exported folder is known."""
CLOSE = 1e-4
"""How far the outputs of an exported model may be from the run's, relative to the largest of them.
Folding a change into a weight rounds it, which a deep network enlarges."""
PIPELINES = {
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "MultipleChoice": "multiple-choice",
    "Seq2SeqLM": "text2text-generation",
    "CausalLM": "text-generation",
}
"""The hub's names of what the kinds of models do."""


@dataclass
class Exported:
    """What an export has made."""

    record: dict[str, Any]
    """The content of mtl_export.json."""
    lines: list[str] = field(default_factory=list)
    """Lines about it, for the user."""


@dataclass
class _Plan:
    """What is to be exported."""

    saved: SavedTask
    head: LibraryHead | str
    """The kind of model in the library, or why there is none."""
    backbone: Backbone | str
    """A backbone that is enough for the task, or why there is none."""
    license: str | None

    @property
    def whole(self) -> TaskNetwork:
        """The task's way through the run's own model."""
        saved = self.saved
        return TaskNetwork(
            saved.model.trunk, saved.head, saved.task.name, saved.encoder.pad_id
        ).eval()

    @property
    def network(self) -> TaskNetwork:
        """The same, through a backbone that is enough for the task, if there is one."""
        if isinstance(self.backbone, str):
            return self.whole
        saved = self.saved
        return TaskNetwork(self.backbone, saved.head, saved.task.name, saved.encoder.pad_id).eval()

    def refusal(self, format: str, reason: str) -> UserError:
        """Return the error of an export that cannot be made."""
        return UserError(
            f"task {self.saved.task.name} cannot be exported as {format}: {reason}",
            f"--format {format}",
            "type --format safetensors",
        )


def export(
    path: Path,
    to: Path,
    *,
    task: str | None = None,
    format: str = "hf",
    int8: bool = False,
    license: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Write the folder `to` with a task of a run folder, or of one of its checkpoints.

    `task`: its name; None where the run has one only. `format`: `hf`, a folder of the transformers
    library; `onnx`, a graph; `safetensors`, the tensors with a list of them. `int8`: 8 bits for the
    matrices of a graph. `license`: the id of a licence, for the model card. `say`: function that is
    called with lines about files of the run. Raises UserError when the task cannot be exported in
    that format, with the reason, and RunError when the result is not the run's model.
    """
    check_place(to)
    if format == "onnx":
        graph.require_packages()
    return export_task(open_task(path, task, say), to, format=format, int8=int8, license=license)


def export_task(
    saved: SavedTask, to: Path, *, format: str, int8: bool = False, license: str | None = None
) -> Exported:
    """Do the work of `export` for a task whose model is in memory."""
    plan = _Plan(
        saved, saved.task.library_head(), merged(saved.model.trunk, saved.task.name), license
    )
    with _beside(to) as folder, _quiet_library():
        if format == "onnx":
            made = _write_onnx(plan, folder, int8)
        else:
            made = (_write_hf if format == "hf" else _write_tensors)(plan, folder)
        write_whole(folder / RECORD, json.dumps(made.record, indent=2) + "\n")
        write_whole(folder / "README.md", card(saved, made.record, usage(made.record), license))
    return made


def check_place(to: Path) -> None:
    """Raise UserError when a folder cannot be made, or there is something in it."""
    if why := obstacle(to, folder=True):
        raise UserError(f"the folder cannot be written: {why}", f"--to {to}", "give another folder")
    if to.is_dir() and any(to.iterdir()):
        raise UserError("the folder is not empty", f"--to {to}", "give a new folder")


@contextmanager
def _beside(to: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `to`, which takes the place of `to` when nothing failed."""
    with writing("the exported folder", to, "then export again"):
        to.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
        try:
            yield made
            # As open as a folder is that mkdir makes.
            mask = os.umask(0)
            os.umask(mask)
            made.chmod(0o777 & ~mask)
            if to.is_dir():
                to.rmdir()
            made.rename(to)
        finally:
            shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Keep the transformers library's remarks and progress bars off the screen."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _record(plan: _Plan, format: str, **more: Any) -> dict[str, Any]:
    """Return the content of mtl_export.json, which says what was exported."""
    saved, head = plan.saved, plan.head
    known = None if isinstance(head, str) else head
    return {
        "format": format,
        "mtl": mtlcli.__version__,
        "task": saved.task.name,
        "type": saved.task.config.type,
        "step": saved.step,
        "sharing": saved.config.sharing.name,
        "merged": isinstance(plan.backbone, Backbone),
        "why_not_merged": plan.backbone if isinstance(plan.backbone, str) else None,
        "kind": known.kind if known else None,
        "pipeline": PIPELINES[known.kind] if known else None,
        "labels": list(known.labels) if known else [],
        "limits": list(known.limits) if known else [],
        "longest": saved.longest,
        "license": plan.license,
        "class": None,
        "trust_remote_code": False,
        "why_own_code": None,
        "quantised": False,
        "difference": None,
        "compared": 0,
        **more,
    }


def _inputs(plan: _Plan, kind: str) -> list[dict[str, torch.Tensor]]:
    """Return the inputs on which the export is compared with the run's model."""
    batches = Probe.of(plan.saved.encoder, plan.saved.longest).batches
    if kind == "Seq2SeqLM":  # Its encoders are given no segments by the library.
        for batch in batches:
            batch.pop("token_type_ids", None)
    return batches


def _compare(
    plan: _Plan, kind: str, run: Callable[[dict[str, torch.Tensor]], Any]
) -> tuple[float, float, int]:
    """Return the largest difference between the run's own model and `run` on inputs of random
    tokens, the largest absolute output, and the number of inputs."""
    whole, worst, largest, count = plan.whole, 0.0, 0.0, 0
    for inputs in _inputs(plan, kind):
        wanted = expected(whole, kind, inputs)
        worst = max(worst, difference(wanted, run(inputs)))
        largest = max(largest, *(float(each.abs().max()) for each in wanted))
        count += len(inputs["input_ids"])
    return worst, largest, count


def _require_close(found: tuple[float, float, int], what: str) -> None:
    """Raise RunError when an exported model is not the run's."""
    worst, largest, _ = found
    if worst > CLOSE * max(1.0, largest):
        raise RunError(
            f"{what} gives other outputs than the run's model: they differ by {worst:.3g}",
            fix="nothing was written; please report this with the run's config.yaml",
        )


def _write_hf(plan: _Plan, folder: Path) -> Exported:
    """Write a folder of the transformers library."""
    plan, pruned = _with_all_heads(plan)
    saved, head = plan.saved, plan.head
    if isinstance(head, str):
        raise plan.refusal("hf", head)
    if head.kind in KINDS and type(saved.head) is not KINDS[head.kind][0]:
        raise plan.refusal(
            "hf", f"its head is a {type(saved.head).__name__}, which is not known here"
        )
    model, why = _library(plan, head)
    if model is None:
        assert why is not None
        try:
            backbone = plan.backbone if isinstance(plan.backbone, Backbone) else None
            model = coded_model(saved, backbone, head)
        except NotImplementedError as error:
            raise plan.refusal("hf", f"{why}, and {error}") from error
    model.save_pretrained(folder)
    if why is not None:
        write_code(folder)
    prompts = head.kind == "CausalLM"
    library_tokenizer(saved.encoder, saved.longest, prompts=prompts).save_pretrained(folder)
    loaded = _loaded(folder, type(model))
    found = _compare(plan, head.kind, lambda inputs: _given(plan, loaded, head.kind, inputs))
    _require_close(found, type(loaded).__name__)
    if (text := differing_text(folder, saved.encoder, saved.longest, prompts=prompts)) is not None:
        raise RunError(f"the exported tokenizer gives other token ids than the run's for {text!r}")
    record = _record(
        plan,
        "hf",
        **{
            "class": type(model).__name__,
            "trust_remote_code": why is not None,
            "why_own_code": why,
        },
        difference=found[0],
        compared=found[2],
    )
    lines = [f"{type(model).__name__}, which loads without trust_remote_code"]
    if why is not None:
        needs = "" if isinstance(plan.backbone, Backbone) else " and the package mtlcli"
        lines = [f"{type(model).__name__}, which needs trust_remote_code=True{needs}: {why}"]
    if pruned:
        lines.append(
            "the heads that were removed are there again, as zeros, since the library's layers all "
            "have the same number; --format onnx leaves them out"
        )
    return Exported(record, [*lines, _closeness(found)])


def _with_all_heads(plan: _Plan) -> tuple[_Plan, bool]:
    """Return a plan whose backbone has the shapes that the library gives it, and whether it lacked
    heads before. Code that an exported folder brings builds a trunk without them."""
    files, backbone = plan.saved.files, plan.backbone
    if isinstance(backbone, str) or not files.architecture.get(FIELD):
        return plan, False
    whole = deepcopy(backbone)
    whole.network = unpruned(backbone.network, files.architecture)
    fields = {key: value for key, value in files.architecture.items() if key != FIELD}
    saved = replace(plan.saved, files=replace(files, architecture=fields))
    return replace(plan, saved=saved, backbone=whole.eval()), True


def _library(plan: _Plan, head: LibraryHead) -> tuple[Any, str | None]:
    """Return the task's model as one of the library's own classes, or why there is none."""
    if isinstance(plan.backbone, str):
        return None, plan.backbone
    try:
        model = library_model(plan.saved, plan.backbone, head)
    except NoClass as error:
        return None, str(error)
    found = _compare(plan, head.kind, lambda inputs: _given(plan, model, head.kind, inputs))
    if found[0] > CLOSE * max(1.0, found[1]):
        return None, f"{type(model).__name__} computes something else on top of the backbone"
    return model, None


def _given(plan: _Plan, model: Any, kind: str, inputs: dict[str, torch.Tensor]) -> Any:
    decoder = writer(plan.saved, plan.backbone) if isinstance(plan.backbone, Backbone) else None
    return given(model, kind, inputs, decoder)


def _loaded(folder: Path, kind: Any) -> Any:
    """Return the model of an exported folder. `kind`: its class. The code that a folder brings is
    a file of this package, and need not be loaded from there, which would leave a copy of it in the
    library's cache."""
    return kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()


def _closeness(found: tuple[float, float, int]) -> str:
    return f"its outputs for {found[2]} inputs of random tokens differ from mtl's by {found[0]:.2g}"


def _write_onnx(plan: _Plan, folder: Path, int8: bool) -> Exported:
    """Write a graph and the tokenizer."""
    saved, head = plan.saved, plan.head
    if isinstance(head, str):
        raise plan.refusal("onnx", head)
    if head.kind not in KINDS:
        raise plan.refusal("onnx", "it writes texts token by token, which one graph does not")
    file = folder / "model.onnx"
    names = ["start_logits", "end_logits"] if head.kind == "QuestionAnswering" else ["logits"]

    def run(inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        outputs = graph.run_graph(file, inputs)
        if head.kind not in PER_TOKEN:
            return outputs
        mask = inputs["attention_mask"]
        return [each * (mask if each.ndim == 2 else mask.unsqueeze(-1)) for each in outputs]

    try:
        graph.write_graph(plan.network, _inputs(plan, head.kind)[0], names, file)
        found = _compare(plan, head.kind, run)
    except NotImplementedError as error:
        raise plan.refusal("onnx", str(error)) from error
    _require_close(found, "the graph")
    lines = [
        f"model.onnx: {', '.join(names)} of inputs of any number and length",
        _closeness(found),
    ]
    if int8:
        whole = folder / "whole.onnx"
        file.rename(whole)
        sizes = [whole.stat().st_size]
        graph.quantise(whole, file)
        whole.unlink()
        sizes.append(file.stat().st_size)
        found = _compare(plan, head.kind, run)
        lines = [
            f"{lines[0]}; matrices in 8 bits ({sizes[1] / sizes[0]:.0%} of the size)",
            f"{lines[1]} before rounding to 8 bits, and by {found[0]:.2g} now",
        ]
    library_tokenizer(saved.encoder, saved.longest, prompts=False).save_pretrained(folder)
    record = _record(
        plan,
        "onnx",
        inputs=list(_inputs(plan, head.kind)[0]),
        outputs=names,
        quantised=int8,
        difference=found[0],
        compared=found[2],
    )
    return Exported(record, lines)


def _write_tensors(plan: _Plan, folder: Path) -> Exported:
    """Write the tensors of the task's way through the model, and what they are."""
    saved, backbone = plan.saved, plan.backbone
    body = saved.model.trunk if isinstance(backbone, str) else backbone
    part = "trunk" if isinstance(backbone, str) else "backbone"
    tensors = {f"{part}.{name}": each for name, each in body.state_dict().items()}
    tensors |= {f"head.{name}": each for name, each in saved.head.state_dict().items()}
    # Tensors that share memory are written once for each name.
    save_file(
        {name: each.detach().clone().contiguous() for name, each in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    sizes = {
        key: sum(each.numel() for name, each in tensors.items() if name.startswith(f"{key}."))
        for key in (part, "head")
    }
    architecture = (
        saved.files.architecture
        if isinstance(backbone, str)
        else library_config(saved, backbone).to_dict()
    )
    pooling = saved.model.pooling
    record = _record(
        plan,
        "safetensors",
        architecture=architecture,
        pooling=pooling,
        head={
            "class": type(saved.head).__name__,
            "modules": [
                f"{name}: {module}"
                for name, module in saved.head.named_modules()
                if name and not list(module.children())
            ],
        },
        parts=sizes,
        tensors={name: list(each.shape) for name, each in tensors.items()},
    )
    library_tokenizer(saved.encoder, saved.longest, prompts=False).save_pretrained(folder)
    line = (
        f"model.safetensors: {sizes[part]:,} numbers of the {part}, {sizes['head']:,} of the head"
    )
    if isinstance(backbone, str):
        line += f"; the whole trunk, since {backbone}"
    return Exported(record, [line])
