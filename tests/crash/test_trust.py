"""A run folder, a model or a cache that somebody else has made: nothing in it is executed, nothing
outside of it is touched.

And what a run leaves behind: no secret of the environment, and modes as the umask says.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save, save_file

from mtlcli.cli import main
from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.config.environment import hide
from mtlcli.config.run import Model
from mtlcli.config.section import replaced
from mtlcli.config.snapshot import load_config, read_config, save_config
from mtlcli.data.sample import sample_table
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.errors import RunWarning, UserError
from mtlcli.models.backbone import build_backbone
from mtlcli.models.files import BackboneFiles
from mtlcli.models.find import find_backbone, locate
from mtlcli.prepare.store import open_features
from mtlcli.rundir import checkpoint
from mtlcli.runner.job import run
from tests.families import TEXTS, family_config
from tests.unit.prepare.test_store import encoder, entries, same, table, task

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
SMALL = [
    *(
        "task=[cola,rte]",
        "model=tiny",
        "model.layers=1",
        "model.hidden=16",
        "model.heads=2",
        "data.max_length=32",
    ),
    *(
        "data.max_train_rows=20",
        "data.max_eval_rows=8",
        "runner.batch_size=6",
        "runner.steps=4",
        "runner.eval_every=2",
    ),
    *(
        "runner.device=cpu",
        "runner.threads=1",
        "logger.console=plain",
        "logger.every=1",
        "weighting=uncertainty",
    ),
]


def train(folder: Path, *options: str) -> Path:
    arguments = [*SMALL, *options]
    run(
        preflight(read_arguments(arguments)).configs[0],
        folder,
        command=["mtl", "train", *arguments],
    )
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended."""
    return train(tmp_path_factory.mktemp("trust") / "whole", "data=sample")


@pytest.fixture
def run_folder(whole: Path, tmp_path: Path) -> Path:
    """The same run as it was after step 2: with one checkpoint."""
    shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("step_00000004"))
    return tmp_path / "run"


def newest(run_folder: Path) -> Path:
    return checkpoint.folders(run_folder / "checkpoints")[-1]


def sign(folder: Path) -> None:
    """Make a checkpoint's manifest say what its files are."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in FILES:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def tree(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder; of links, where they lead to."""
    return {
        str(path): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


class Malice:
    """Unpickling it leaves a file behind."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return open, (str(self.canary), "w")


unpickled: list[tuple[Any, ...]] = []
sys.addaudithook(
    lambda event, details: unpickled.append(details) if event == "pickle.find_class" else None
)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there at the end; and no class may have been looked up by an
    unpickler."""
    unpickled.clear()
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()
    assert unpickled == []


def pickles(canary: Path) -> dict[str, bytes]:
    """The three forms that the world's loaders take."""
    zipped, numbers = io.BytesIO(), io.BytesIO()
    torch.save({"weight": Malice(canary)}, zipped)
    np.save(numbers, np.array([Malice(canary)], dtype=object), allow_pickle=True)
    return {
        "pickle": pickle.dumps({"step": Malice(canary)}),
        "torch": zipped.getvalue(),
        "numpy": numbers.getvalue(),
    }


def test_the_pickles_do_what_they_should_not(tmp_path: Path) -> None:
    for content in pickles(tmp_path / "canary").values():
        with pytest.raises(FileNotFoundError):
            (tmp_path / "canary").unlink()
        unpickled.clear()
        if content.startswith(b"\x93NUMPY"):
            np.load(io.BytesIO(content), allow_pickle=True)
        else:
            torch.load(io.BytesIO(content), weights_only=False) if content.startswith(
                b"PK"
            ) else pickle.loads(content)  # noqa: S301
        assert (tmp_path / "canary").exists() and unpickled
        (tmp_path / "canary").unlink()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run a command that must end in one block, and return the block."""
    capsys.readouterr()
    assert main(list(arguments)) == code
    errors = capsys.readouterr().err
    # Notices may stand before it.
    found = re.search(rf"^mtl {arguments[0]}: \d problem", errors, re.MULTILINE)
    assert found and "Traceback" not in errors, errors
    return errors[found.start() :]


# ------------------------------------------------------------------------------------------------
# pickles

PLACES = [
    *(f"checkpoints/step_00000002/{name}" for name in (*FILES, "manifest.json")),
    *(
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "backbone/backbone.json",
        "backbone/tokenizer.json",
    ),
]


@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_in_the_place_of_a_file(
    run_folder: Path, canary: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in pickles(canary).values():
        # A row of metrics.jsonl that a kill has torn is left out, so this one must look whole.
        (run_folder / place).write_bytes(content + b"\n" if place == "metrics.jsonl" else content)
        if Path(place).name in FILES:
            sign(newest(run_folder))
        errors = refused(capsys, "train", f"resume={run_folder}")
        assert Path(place).name in errors or Path(place).parent.name in errors, errors
        if place not in (
            "environment.json",
            "metrics.jsonl",
            "checkpoints/step_00000002/optimizer.safetensors",
        ):
            refused(capsys, "eval", str(run_folder))


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A tiny BERT as the hub has it."""
    from tokenizers import Tokenizer
    from transformers import AutoModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(build_tokenizer(TEXTS, 200))
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    folder = tmp_path / "model"
    AutoModel.from_config(family_config("bert", tokenizer.get_vocab_size())).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def build(folder: Path) -> Any:
    model = Model(kind="pretrained", name=str(folder))
    return build_backbone(find_backbone(model, list), model)


def test_pickled_weights_are_never_read(model_folder: Path, canary: Path) -> None:
    for content in pickles(canary).values():
        (model_folder / "pytorch_model.bin").write_bytes(content)
        build(model_folder)
    weights = (model_folder / "model.safetensors").read_bytes()
    for content in pickles(canary).values():
        (model_folder / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="the weights cannot be read"):
            build(model_folder)
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pickled weights \(pytorch_model.bin\) can run code"):
        build(model_folder)
    # Weights in several files: the library would take the names of any files from the index.
    (model_folder.parent / "outside.safetensors").write_bytes(weights)
    for name in (
        "pytorch_model.bin",
        "../outside.safetensors",
        str(model_folder.parent / "outside.safetensors"),
    ):
        index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": name}}
        (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(
            UserError,
            match=r"model.safetensors.index.json names '.*', which is no safetensors file beside "
            r"it",
        ):
            build(model_folder)


def test_code_of_a_model_is_never_run(model_folder: Path, canary: Path) -> None:
    (model_folder / "code.py").write_text(
        f"open({str(canary)!r}, 'w')\nfrom transformers import BertConfig as C, BertModel as M\n"
    )
    config = json.loads((model_folder / "config.json").read_text())
    more = {
        "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"},
        "attn_implementation": "somebody/kernel",
    }
    (model_folder / "config.json").write_text(json.dumps(config | more))
    files = find_backbone(Model(kind="pretrained", name=str(model_folder)), list)
    assert (
        not {"auto_map", "attn_implementation", "_attn_implementation"} & files.architecture.keys()
    )
    build(model_folder)
    (model_folder / "config.json").write_text(
        json.dumps(config | more | {"model_type": "unheard_of"})
    )
    with pytest.raises(UserError, match="the model cannot be loaded"):
        build(model_folder)
    with pytest.raises(UserError, match="is not installed"):
        locate("package:os.path/x")


def test_what_a_run_folder_says_of_its_backbone_runs_nothing(
    run_folder: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_folder / "backbone" / "backbone.json"
    fields = json.loads(file.read_text())
    fields["architecture"] |= {
        "auto_map": {"AutoModel": "code.M"},
        "attn_implementation": "somebody/kernel",
        "_name_or_path": "/etc",
    }
    file.write_text(json.dumps(fields))
    assert (
        not {"auto_map", "attn_implementation", "_name_or_path"}
        & BackboneFiles.load(run_folder / "backbone").architecture.keys()
    )
    allowed = "allow=[backbone/backbone.json]"
    for wrong in (
        {"architecture": {}},
        {"architecture": []},
        {"uses_segments": "yes"},
        {"more": 1},
    ):
        file.write_text(json.dumps(fields | wrong))
        assert "backbone.json: the file is not what step_00000002 was saved with" in refused(
            capsys, "eval", str(run_folder)
        )
        assert "backbone: the folder does not hold what a run saves" in refused(
            capsys, "eval", str(run_folder), allowed
        )
    file.write_text(json.dumps(fields | {"architecture": {"model_type": "unheard_of"}}))
    assert "the architecture cannot be built" in refused(capsys, "eval", str(run_folder), allowed)


def doubling(value: dict[str, Any]) -> None:
    steps = [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 30
    value["normalizer"] = {"type": "Sequence", "normalizers": steps}


def endless(value: dict[str, Any]) -> None:
    value["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(([a-z ]+)+)+$!"},
        "behavior": "Isolated",
        "invert": False,
    }


SIZES: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "layers": (
        "backbone.json",
        lambda value: value["architecture"].update(num_hidden_layers=10**7),
        "num_hidden_layers is 10000000, more than 1,000",
    ),
    "memory": (
        "backbone.json",
        lambda value: value["architecture"].update(vocab_size=2**30),
        "does not fit the run: ",
    ),
    "a tokenizer that doubles a text 30 times": (
        "tokenizer.json",
        doubling,
        "can make 1,073,741,824 characters of one",
    ),
    "an expression that does not end": (
        "tokenizer.json",
        endless,
        "its tokenizer fails on a short text",
    ),
}


@pytest.mark.parametrize("name", list(SIZES))
def test_sizes_are_looked_at_before_they_are_believed(
    run_folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, change, expected = SIZES[name]
    value = json.loads((run_folder / "backbone" / file).read_text())
    change(value)
    (run_folder / "backbone" / file).write_text(json.dumps(value))
    assert expected in refused(capsys, "eval", str(run_folder), f"allow=[backbone/{file}]")
    assert expected in refused(capsys, "train", f"resume={run_folder}", f"allow=[backbone/{file}]")


def test_a_few_lines_that_stand_for_billions_of_values(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        "a0: &a0 [x,x,x,x,x,x,x,x,x,x]",
        *(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)),
        "b: &b [*b]",
    ]
    for count in (len(lines) - 1, len(lines)):
        shutil.copyfile(newest(run_folder) / "config.yaml", run_folder / "config.yaml")
        with (run_folder / "config.yaml").open("a") as stream:
            stream.write("\n".join(lines[:count]) + "\n")
        for verb in (("train", f"resume={run_folder}"), ("eval", str(run_folder))):
            text = refused(capsys, *verb)
            assert (
                "config.yaml: the file stands for more than 100,000 values" in text
                and f"cp {newest(run_folder)}/config.yaml" in text
            )


def test_a_pickle_in_the_encoded_store(tmp_path: Path, canary: Path) -> None:
    expected = task().encode(table(), encoder())
    cache = tmp_path / "cache"
    archive = io.BytesIO()
    np.savez(archive, ids=np.zeros(3))
    for content in [*pickles(canary).values(), archive.getvalue()]:
        open_features(table(), task(), encoder(), cache)
        (entry,) = entries(cache)
        (entry / "ids.npy").write_bytes(content)
        meta = json.loads((entry / "meta.json").read_text())
        (entry / "meta.json").write_text(
            json.dumps(meta | {"sizes": meta["sizes"] | {"ids": len(content)}})
        )
        with pytest.warns(RunWarning, match="were damaged"):
            assert same(open_features(table(), task(), encoder(), cache), expected)
    np.save(tmp_path / "outside.npy", np.zeros(3))
    header = (entry / "ids.npy").read_bytes()
    for name, change in {
        "a name outside": {"../../../outside": (tmp_path / "outside.npy").stat().st_size},
        "an absolute name": {str(tmp_path / "outside"): (tmp_path / "outside.npy").stat().st_size},
        "a huge array": None,
        "nothing": [],
    }.items():
        meta = json.loads((entry / "meta.json").read_text())
        if change is None:
            place = header.index(b"(") + 1
            huge = str(2**60).encode()
            (entry / "ids.npy").write_bytes(
                header[:place]
                + huge
                + b",), }".ljust(128 - place - len(huge) - 1)
                + b"\n"
                + header[128:]
            )
        else:
            (entry / "meta.json").write_text(
                json.dumps(meta | {"sizes": meta["sizes"] | change if change else change})
            )
        with pytest.warns(RunWarning, match="were damaged"):
            assert same(open_features(table(), task(), encoder(), cache), expected), name


# ------------------------------------------------------------------------------------------------
# a manifest that matches


@pytest.mark.parametrize(
    "files",
    [
        lambda files: files | {"../../../outside": files["state.json"]},
        lambda files: {
            "../../../outside" if name == "state.json" else name: entry
            for name, entry in files.items()
        },
        lambda files: files | {"/etc/passwd": files["state.json"]},
        lambda files: files | {"more.bin": files["state.json"]},
        lambda files: {},
        lambda files: list(files),
        lambda files: dict.fromkeys(files, 3),
        lambda files: {name: entry | {"path": "../outside"} for name, entry in files.items()},
        lambda files: {name: entry | {"size": -1} for name, entry in files.items()},
        lambda files: files | {"x" * 100_000: 1},
    ],
    ids=[
        "outside",
        "instead",
        "absolute",
        "more",
        "none",
        "list",
        "numbers",
        "keys",
        "negative",
        "large",
    ],
)
def test_a_manifest_names_the_files_of_a_checkpoint_and_no_other(
    run_folder: Path, files: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    outside = run_folder.parent / "outside"
    shutil.copyfile(newest(run_folder) / "state.json", outside)
    file = newest(run_folder) / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"files": files(manifest["files"])}))
    before = tree(run_folder.parent)
    os.utime(outside, (1, 1))
    for verb in (("train", f"resume={run_folder}"), ("eval", str(run_folder))):
        assert "no usable checkpoint; skipped step_00000002: " in refused(capsys, *verb)
    assert outside.stat().st_atime == 1, "it was not read"
    assert {
        key: value for key, value in tree(run_folder.parent).items() if not key.endswith(".owner")
    } == {key: value for key, value in before.items() if not key.endswith(".owner")}


def state(**changes: Any) -> Callable[[str], str]:
    def change(text: str) -> str:
        values = json.loads(text) | changes
        return json.dumps({name: value for name, value in values.items() if value is not ...})

    return change


def nested(text: str) -> str:
    return text.replace(
        '"weighting": {', '"weighting": {"x": ' + "[" * 100_000 + "]" * 100_000 + ","
    )


NUMBERS = ("examples", "tokens", "padded", "padding", "seconds")
STATES: dict[str, tuple[Callable[[str], str], str]] = {
    "step -1": (state(step=-1), "state.json is of step -1, not of 2"),
    "step of another": (state(step=4), "state.json is of step 4, not of 2"),
    "step as text": (state(step="2"), "state.json is of step 2, not of 2"),
    "step as a number with a point": (state(step=2.0), "state.json is of step 2.0, not of 2"),
    "step true": (state(step=True), "state.json is of step True, not of 2"),
    "step outside": (state(step="../../x"), "state.json is of step ../../x, not of 2"),
    "no step": (state(step=...), "state.json is of step None, not of 2"),
    "best step outside": (state(best_step="/../../x"), "state.json says that step /../../x was the "
                                                       "best"),
    "best step -1": (state(best_step=-1), "state.json says that step -1 was the best"),
    "best step to come": (state(best_step=4), "state.json says that step 4 was the best"),
    "not a number": (state(best_score=float("nan")), "state.json cannot be read: the number NaN"),
    "infinite": (lambda text: text.replace('"stale": 0', '"stale": 1e400'), "state.json cannot be "
                                                                            "read: the number "
                                                                            "1e400"),
    "10^400": (lambda text: text.replace('"stale": 0', f'"stale": {10**400}'), "state.json cannot "
                                                                               "be read: the "
                                                                               "number 100000"),
    "very deep": (nested, "state.json cannot be read: it is nested too deeply"),
    "a list": (lambda text: "[]", "state.json is of step None, not of 2"),
    "a missing key": (state(positions=...), "state.json does not fit the run: positions is "
                                            "missing"),
    "an unknown key": (state(_target_="os.system"), "state.json does not fit the run: _target_ is "
                                                    "not known"),
    "positions of unknown tasks": (state(positions={"cola": 1, "evil": 1}), "positions are of "
                                                                            "cola, evil, the run "
                                                                            "trains cola, rte"),
    "a position that is negative": (state(positions={"cola": -1, "rte": 1}), "state.json does not "
                                                                             "fit the run: "
                                                                             "positions cannot be"),
    "a position that is text": (state(positions={"cola": "1", "rte": 1}), "state.json does not fit "
                                                                          "the run: positions "
                                                                          "cannot be"),
    "a position without end": (state(positions={"cola": 2**62, "rte": 1}), "positions.cola is "
                                                                           f"{2**62}, beyond the "
                                                                           "step 2"),
    "counts that are text": (state(totals={"examples": "many"}), "state.json does not fit the run: "
                                                                 "totals.tokens is missing"),
    "a window of unknown tasks": (
        state(window={"totals": dict.fromkeys(NUMBERS, 0), "tasks": {"x": {}}, "gradients": None}),
        "window.tasks are x, the run trains cola, rte",
    ),
    "a state of another "
    "weighting": (state(weighting={"logits": [1]}), "state.json does not fit "
                                                                       "the run: "),
    "an empty best": (state(best={}), "best does not hold the results of the best step"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_cannot_be(
    run_folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, expected = STATES[name]
    folder = newest(run_folder)
    text = (folder / "state.json").read_text()
    (folder / "state.json").write_text(change(text))
    assert (folder / "state.json").read_text() != text
    sign(folder)
    assert expected in refused(capsys, "train", f"resume={run_folder}")
    if "does not fit" not in expected and "the run trains" not in expected:
        code = main(["eval", str(run_folder)])
        assert (code == 2) is (not expected.startswith(("positions", "best")))


Tensors = dict[str, torch.Tensor]


def changed(file: str, change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        save_file(change(load_file(folder / file)), folder / file)

    return apply


def huge_header(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + content[8:])


def huge_tensor(folder: Path) -> None:
    header = json.dumps(
        {"weight": {"dtype": "F32", "shape": [2**58], "data_offsets": [0, 2**60]}}
    ).encode()
    # As long as the run's own file: a shorter one is refused for its size.
    size = (folder / "model.safetensors").stat().st_size
    (folder / "model.safetensors").write_bytes(
        (len(header).to_bytes(8, "little") + header).ljust(size, b"\0")
    )


def first(tensors: Tensors) -> str:
    return next(name for name in sorted(tensors) if tensors[name].ndim == 2)


def without(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != first(tensors)}


TENSORS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a huge header": (
        huge_header,
        "model.safetensors cannot be read: Error while deserializing header: header too large",
    ),
    "a huge tensor": (
        huge_tensor,
        "model.safetensors cannot be read: Error while deserializing header",
    ),
    "one is missing": (changed("model.safetensors", without), "is missing"),
    "one too many": (
        changed("model.safetensors", lambda t: t | {"more": torch.ones(1)}),
        "it has more, which the run does not have",
    ),
    "another shape": (
        changed("model.safetensors", lambda t: t | {first(t): torch.ones(2, 2)}),
        "has the shape [2, 2] instead of",
    ),
    "another type": (
        changed("model.safetensors", lambda t: t | {first(t): t[first(t)].double()}),
        "holds torch.float64 instead of",
    ),
    "not a number": (
        changed("model.safetensors", lambda t: t | {first(t): t[first(t)] * float("nan")}),
        "is not finite",
    ),
    "moments of another": (
        changed("optimizer.safetensors", lambda t: t | {"evil/step": torch.ones(())}),
        "it has the state of 'evil'",
    ),
    "half of the moments": (changed("optimizer.safetensors", without), "is missing"),
    "moments too many": (
        changed("optimizer.safetensors", lambda t: t | {first(t) + "x": torch.ones(1)}),
        "which the run does not have",
    ),
    "moments of another shape": (
        changed("optimizer.safetensors", lambda t: t | {first(t): torch.ones(1)}),
        "has the shape [1] instead of",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_not_the_runs(
    run_folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, expected = TENSORS[name]
    change(newest(run_folder))
    sign(newest(run_folder))
    assert expected in refused(capsys, "train", f"resume={run_folder}")
    if "moments" not in name:
        assert expected in refused(capsys, "eval", str(run_folder))


# ------------------------------------------------------------------------------------------------
# a saved config


CONFIGS = {
    "_target_": (
        "seed: 0",
        "seed: 0\n_target_: os.system\n_args_: [touch CANARY]",
        "unknown key '_target_'",
    ),
    "_target_ in a section": (
        "optim:",
        "optim:\n  _target_: builtins.open\n  _args_: [CANARY, w]",
        "unknown key '_target_'",
    ),
    "a tag": (
        "seed: 0",
        "seed: !!python/object/apply:builtins.open [CANARY, w]",
        "could not determine a constructor",
    ),
    "a resolver": (
        "seed: 0",
        "seed: ${canary:x}",
        "the file asks for the resolver 'canary', which is not run from a saved file",
    ),
    "a resolver in another": (
        "seed: 0",
        "seed: ${oc.decode:${canary:x}}",
        "the file asks for the resolver 'canary'",
    ),
    "a resolver with a made-up name": (
        "seed: 0",
        "seed: ${${model.kind}:x}",
        "the file asks for the resolver '${...}'",
    ),
    "a resolver in a key": (
        "seed: 0",
        "seed: 0\n'${canary:x}': 1",
        "the file asks for the resolver 'canary'",
    ),
    "a resolver of Hydra": (
        "seed: 0",
        "seed: ${hydra:job.name}",
        "the file asks for the resolver 'hydra'",
    ),
    "very deep": ("seed: 0", "seed: " + "[" * 1_200, "cannot be read"),
    "a huge number": ("seed: 0", "seed: " + "9" * 5000, "cannot be read"),
    "a negative step": ("steps: 4", "steps: -4", "must be greater than 0"),
}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_saved_config_runs_nothing(
    run_folder: Path, canary: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    OmegaConf.register_new_resolver("canary", lambda text: canary.write_text(text), replace=True)
    old, new, expected = CONFIGS[name]
    file = run_folder / "config.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new.replace("CANARY", str(canary)), 1))
    try:
        for verb in (("train", f"resume={run_folder}"), ("eval", str(run_folder))):
            assert expected in refused(capsys, *verb)
    finally:
        OmegaConf.clear_resolver("canary")


def test_text_that_looks_like_an_interpolation_stays_text(run_folder: Path, tmp_path: Path) -> None:
    config = load_config(run_folder / "config.yaml")
    for text in (
        "${oc.env:HOME}",
        "\\${oc.env:HOME}",
        "\\\\${oc.env:HOME}",
        "a\\b${canary:x}\\",
        "${",
    ):
        save_config(replaced(config, {"model.name": text}), tmp_path / "config.yaml")
        assert load_config(tmp_path / "config.yaml").model.name == text


# ------------------------------------------------------------------------------------------------
# links


@pytest.mark.parametrize(
    "place",
    [
        ".owner",
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "log.txt",
        ".status.json.tmp",
        "backbone",
        "backbone/tokenizer.json",
    ],
)
def test_a_link_in_a_run_folder_is_refused(
    run_folder: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    if (run_folder / place).exists():
        shutil.move(run_folder / place, outside)
    else:
        outside.write_text("precious")
    (run_folder / place).symlink_to(outside)
    before = tree(tmp_path)
    for verb in (
        ("train", f"resume={run_folder}"),
        ("eval", str(run_folder)),
        ("train", f"resume={newest(run_folder)}"),
    ):
        assert f"{run_folder / place}: is a symbolic link" in refused(capsys, *verb)
    assert tree(tmp_path) == before


def test_a_link_where_a_run_would_start_again_is_refused(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run_folder / "checkpoints")
    (tmp_path / "outside").write_text("precious")
    (run_folder / ".owner").unlink(missing_ok=True)
    (run_folder / ".owner").symlink_to(tmp_path / "outside")
    config = preflight(
        read_arguments([*SMALL, "data=sample", "resume=auto", f"run_dir={run_folder}"])
    ).configs[0]
    with pytest.raises(UserError, match=r".owner: is a symbolic link"):
        run(config, run_folder, command=["mtl"])
    assert (tmp_path / "outside").read_text() == "precious"


# ------------------------------------------------------------------------------------------------
# what a run leaves behind


def test_no_secret_of_the_environment_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "s3cret-T0ken"
    monkeypatch.setenv("MTL_TEST_TOKEN", secret)
    for split in ("train", "validation"):
        place = tmp_path / secret / "glue" / "rte" / f"{split}.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(sample_table("glue/rte", split, 0), place)
    options = [
        *(
            "task=rte",
            f"data.root={tmp_path}/${{oc.env:MTL_TEST_TOKEN}}",
            "data.source=local",
            "runner.save_every=2",
        ),
        f"data.cache_dir={tmp_path}/${{oc.env:MTL_TEST_TOKEN}}/cache",
    ]
    folder = train(tmp_path / "run", *options)
    shutil.rmtree(folder / "checkpoints" / "step_00000004")
    assert main(["train", f"resume={folder}"]) == 0
    assert main(["eval", str(folder), "--json", str(tmp_path / "scores.json")]) == 0
    holding = [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]
    assert holding == [] and secret not in (tmp_path / "scores.json").read_text()
    assert (
        "root: " in (text := (folder / "config.yaml").read_text())
        and text.count("${oc.env:MTL_TEST_TOKEN}") == 2
    )
    environment = json.loads((folder / "environment.json").read_text())
    read = environment["data"]["tasks"]["rte"]["splits"]["train"]
    assert read["origin"] == f"{tmp_path}/${{oc.env:MTL_TEST_TOKEN}}/glue/rte/train.parquet"
    # It is still enough to rebuild the run: elsewhere the variable has another value.
    shutil.rmtree(folder / "checkpoints" / "step_00000004")
    (tmp_path / secret).rename(tmp_path / "another-place")
    monkeypatch.setenv("MTL_TEST_TOKEN", "another-place")
    assert main(["train", f"resume={folder}"]) == 0
    # What failed is told without it, too.
    shutil.rmtree(folder / "checkpoints" / "step_00000004")
    with monkeypatch.context() as patch:
        patch.setattr(
            "mtlcli.training.trainer.seed_dropout",
            lambda *_: (_ for _ in ()).throw(RuntimeError("at another-place/x")),
        )
        with pytest.raises(RuntimeError):
            main(["train", f"resume={folder}"])
    assert (
        json.loads((folder / "status.json").read_text())["reason"]
        == "RuntimeError: at ${oc.env:MTL_TEST_TOKEN}/x"
    )
    capsys.readouterr()


@pytest.mark.parametrize(
    "value", ["hf_" + "aB3" * 12, "https://me:s3cret@hub.example/model", "ghp_" + "x" * 36]
)
def test_a_token_typed_as_a_value_is_refused_and_never_shown(
    run_folder: Path, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for start in ("data=sample", f"resume={run_folder}"):
        text = refused(capsys, "train", start, f"model.name='{value}'")
        assert (
            "model.name: holds what looks like a token or a password" in text and value not in text
        )
    assert (
        value not in hide(f"loading {value} failed")
        and hide("hf_transformers_cache/sk-learn") == "hf_transformers_cache/sk-learn"
    )


def test_weights_are_found_again_when_their_place_is_a_secret(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MTL_TEST_PLACE", str(model_folder))
    values = {
        "tasks": {
            "x": {
                "type": "classification",
                "source": {"path": "x"},
                "columns": {"text": "a"},
                "labels": ["a", "b"],
            }
        }
    }
    composed = values | {
        "model": {"kind": "pretrained", "name": "${oc.env:MTL_TEST_PLACE}"},
        "sharing": {"name": "hard"},
    }
    config, problems = read_config(
        OmegaConf.create(composed | {"weighting": {"name": "static"}, "sampling": {"name": "all"}})
    )
    assert config is not None and problems == []
    find_backbone(config.model, list).save(tmp_path / "backbone")
    assert str(model_folder) not in (tmp_path / "backbone" / "backbone.json").read_text()
    files = BackboneFiles.load(tmp_path / "backbone")
    built = build_backbone(files, config.model).network.state_dict()
    stored = load_file(model_folder / "model.safetensors")
    assert all(torch.equal(built[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        train(tmp_path / "run", "data=sample", f"data.cache_dir={tmp_path / 'cache'}")
    finally:
        os.umask(before)
    paths = [
        path
        for folder in ("run", "cache")
        for path in (tmp_path / folder, *(tmp_path / folder).rglob("*"))
    ]
    assert len(paths) > 30
    wrong = {
        str(path): oct(path.stat().st_mode & 0o777)
        for path in paths
        if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert wrong == {}


def test_save_is_what_is_checked() -> None:
    """The format itself holds nothing but a JSON header and numbers."""
    content = save({"weight": torch.ones(2)})
    size = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + size]) == {
        "weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    }
