"""A task's model as a folder that brings its own code, `modeling_mtl.py`, for what the transformers
library has no class for. It is loaded with `trust_remote_code=True`."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from mtlcli.export import modeling_mtl
from mtlcli.export.library import library_config
from mtlcli.export.modeling_mtl import MtlConfig, MtlModel
from mtlcli.export.network import KINDS
from mtlcli.export.saved import SavedTask
from mtlcli.export.trunk import fields_of
from mtlcli.models.backbone import Backbone
from mtlcli.rundir.folder import RunFolder
from mtlcli.tasks.base import LibraryHead

FILE = Path(modeling_mtl.__file__)
"""The code that an exported folder brings."""


def coded_model(saved: SavedTask, backbone: Backbone | None, wanted: LibraryHead) -> MtlModel:
    """Return a task's model, with weights and in evaluation mode, whose code `write_code` puts into
    a folder. `backbone`: what `merged` returned; None where the whole trunk is needed.

    Raises NotImplementedError with the reason, as a clause, where that cannot be done.
    """
    if wanted.kind not in KINDS:
        raise NotImplementedError("what writes texts is no head that the folder's own code has")
    if backbone is None and RunFolder(saved.run).methods():
        raise NotImplementedError("the run's methods come from Python files of your own (-cd)")
    head: Any = saved.head
    dense = sum(isinstance(layer, nn.Linear) for layer in head.layers)
    trunk, body = (
        None,
        backbone
        or next(each for each in saved.model.trunk.modules() if isinstance(each, Backbone)),
    )
    architecture: dict[str, Any] = saved.files.architecture
    if backbone is None:
        trunk = fields_of(
            asdict(saved.config.sharing),
            saved.model.trunk.owners,
            saved.task.name,
            saved.encoder.pad_id,
            saved.config.model.dropout,
        )
    else:
        architecture = library_config(saved, backbone).to_dict()
    name = f"MtlFor{wanted.kind}"
    labels = wanted.labels or ("LABEL_0", "LABEL_1")
    config = MtlConfig(
        backbone=architecture,
        pooling=body.pooling,
        head_layers=dense,
        head_dropout=head.layers[0].p,
        trunk=trunk,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        problem_type=wanted.problem,
        pad_token_id=saved.encoder.pad_id,
        architectures=[name],
        auto_map={
            "AutoConfig": f"{FILE.stem}.MtlConfig",
            f"AutoModelFor{wanted.kind}": f"{FILE.stem}.{name}",
        },
    )
    model: MtlModel = getattr(modeling_mtl, name)(config).eval()
    if backbone is None:
        model.network.trunk.load_state_dict(saved.model.trunk.state_dict())
    else:
        model.network.load_state_dict(backbone.network.state_dict())
    model.layers.load_state_dict(head.layers.state_dict())
    model.output.load_state_dict(head.output.state_dict())
    return model


def write_code(folder: Path) -> None:
    """Put the code beside the weights."""
    shutil.copyfile(FILE, folder / FILE.name)
