"""The sections of a run's configuration other than its tasks and its methods."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from mtlcli.config.section import section


@section
class Model:
    """The backbone."""

    kind: Literal["auto", "pretrained", "scratch"] = "auto"
    """`pretrained`: `name` with its weights. `scratch`: built from `layers`, `hidden`, ... with a
    WordPiece tokenizer trained on the tasks' text. `auto`: `name` when the hub or its cache has it,
    else from scratch."""
    name: str | None = "google-bert/bert-base-uncased"
    """Any name or folder that `AutoModel` takes, or `package:NAME/FOLDER` for a folder inside an
    installed package."""
    lr: Annotated[float, Gt(0), Le(1e30)] = 3e-5
    """Learning rate that suits this model; used when `optim.lr` is null."""
    pooling: Literal["auto", "pooler", "cls", "mean", "last"] = "auto"
    """How token states become one vector: the model's own pooler, the first token, the mean, the
    last token. `auto`: the pooler if the model has a trained one, the last token for decoder-only
    models, the mean for encoder-decoder models, else the first token."""
    dropout: Annotated[float, Ge(0), Lt(1)] | None = None
    """Dropout in the backbone and the heads; null: what the model's own configuration says, and
    none from scratch."""
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    """Attention implementation of the transformers library; `auto`: its default, but in training
    with dropout on a CPU plain products (`eager`, and in layers like BERT's with cheap dropout),
    which are faster there."""
    gradient_checkpointing: bool = False
    """Keep only what goes into each layer and compute the rest again in the backward pass: less
    memory, about a third more time (Chen et al. 2016)."""
    frozen_layers: Annotated[int, Ge(0), Le(1000)] | None = None
    """The embeddings and this many of the lowest layers keep their first weights; 0: the embeddings
    alone; null: all is trained."""
    layers: Annotated[int, Gt(0), Le(1000)] = 2
    """From scratch: number of layers."""
    hidden: Annotated[int, Gt(0), Le(65536)] = 64
    """From scratch: width."""
    heads: Annotated[int, Gt(0), Le(1024)] = 4
    """From scratch: attention heads."""
    vocabulary: Annotated[int, Ge(100), Le(10_000_000)] = 8000
    """From scratch: largest size of the WordPiece vocabulary."""
    initializer_range: Annotated[float, Gt(0), Le(100)] = 0.1
    """From scratch: standard deviation of the initial weights; BERT's 0.02 suits its width of
    768."""
    scratch_lr: Annotated[float, Gt(0), Le(1e30)] = 1e-3
    """Learning rate when the model is built from scratch; used when `optim.lr` is null."""


@section
class Data:
    """Where rows come from and how they are encoded."""

    source: Literal["auto", "hub", "local", "sample"] = "auto"
    """Where the rows come from of every task that names no source of its own
    (`tasks.NAME.source.kind` or `.files`). `auto`: `root` if given, else the hub or its cache, else
    the built-in sample world."""
    root: str | None = None
    """Folder with `<task path>/<split>.parquet`, `.csv`, `.jsonl.gz`, ... in the hub's columns."""
    max_length: Annotated[int, Ge(8), Le(1_000_000)] = 128
    """Longest input in tokens, special tokens included. Span tasks cut longer contexts into
    windows, others truncate."""
    max_train_rows: Annotated[int, Gt(0), Le(10**12)] | None = None
    """Use only so many rows of every train split, drawn at random by `seed`, of each class its
    share; null: all."""
    max_eval_rows: Annotated[int, Gt(0), Le(10**12)] | None = None
    """Use only so many rows of every other split, drawn at random by `seed`, of each class its
    share; null: all."""
    warnings: Literal["off", "summary", "all"] = "summary"
    """What is shown of doubtful rows (repeated, in train and validation, cut): a line for each
    task, with the rows in log.txt; or all of it; `off`: such rows are not looked for. `mtl tasks
    NAME` shows all of it."""
    cache_dir: str | None = None
    """Folder of the encoded store; null: $MTL_CACHE or ~/.cache/mtl."""
    sample_seed: Annotated[int, Ge(-(2**63)), Lt(2**63)] = 0
    """Seed of the sample world."""


@section
class Runner:
    """How the run is carried out."""

    epochs: Annotated[float, Gt(0), Le(1_000_000)] | None = 3.0
    """Passes over the data; `runner.steps` takes its place when given."""
    steps: Annotated[int, Gt(0)] | None = None
    """Number of optimiser updates; null: from `epochs`."""
    batch_size: Annotated[int, Gt(0), Le(1_000_000)] = 32
    """Examples of a task in a step, over all devices and micro-batches."""
    max_tokens: Annotated[int, Gt(0)] | Literal["auto"] | None = None
    """Largest padded tokens of a task in a step; longer inputs then come in smaller batches.
    `auto`: as many as memory has room for, found out when the run begins; the run's config.yaml
    then has the number. Null: no bound."""
    together: bool = True
    """Inputs of all tasks of a step go through what they share together, grouped by length, where
    sharing and weighting allow. False: one task after the other."""
    accumulation: Annotated[int, Gt(0)] = 1
    """Micro-batches that a task's batch is cut into, to save memory. Without dropout the update
    stays the same within rounding; with dropout other elements are dropped."""
    eval_batch_size: Annotated[int, Gt(0), Le(1_000_000)] = 64
    """Examples in an evaluation batch."""
    eval_every: Annotated[int, Gt(0)] | None = None
    """Steps between evaluations; null: once an epoch. The last step is always evaluated."""
    eval_share: Annotated[float, Gt(0), Lt(1)] | None = None
    """Instead of `eval_every`: once an epoch, or less often, so that evaluation takes at most this
    share of the time, by the numbers of tokens; null: no bound."""
    save_every: Annotated[int, Gt(0)] | None = None
    """Steps between checkpoints; null: at every evaluation. The last step, and that of an
    interruption, is always saved."""
    keep: Annotated[int, Gt(0)] = 2
    """Newest checkpoints that are kept, beside the best one. One that is found damaged is then no
    loss."""
    patience: Annotated[int, Gt(0)] | None = None
    """Stop after this many evaluations without a better average score; null: never."""
    skip_nonfinite: Annotated[int, Ge(0)] = 0
    """Steps of the run that may be left out because a loss or gradient is not finite; one more
    stops it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: cuda if there is one."""
    devices: Annotated[int, Gt(0), Le(4096)] = 1
    """Number of devices (GPUs, or CPU processes), each with its share of every batch."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the matrix products. `auto`: bf16 autocast where the hardware has
    instructions for bf16 products (GPUs; CPUs with AMX, AVX512-BF16 or ARM's bf16), else fp32; a
    rule, not a measurement. Losses, outputs of heads and metrics are in fp32 in any case."""
    threads: Annotated[int, Gt(0), Le(1024)] | None = None
    """CPU threads of each process; null: OMP_NUM_THREADS if it is set, else the cores shared
    evenly."""
    timeout: Annotated[float, Gt(0), Le(31_536_000)] = 1800.0
    """Seconds, at most a year, after which a rank that does not answer is given up."""


@section
class Logger:
    """What is shown and written while a run goes on."""

    console: Literal["auto", "live", "plain"] = "auto"
    """`live`: a view that redraws itself; `plain`: lines; `auto`: live in a terminal, else
    plain."""
    every: Annotated[int, Gt(0)] = 10
    """Steps between rows of metrics.jsonl."""
    probe: Annotated[int, Gt(0)] | None = None
    """Measure norms and cosines of the tasks' gradients every n-th step, whatever the weighting;
    the update stays the same. Null: only where the weighting measures them anyway."""
    affinity: Annotated[int, Gt(0)] | None = None
    """Measure every n-th step how a step on one task changes the loss of each other (Fifty et al.
    2021); costs K backward passes and K x K forward passes. Null: never."""
