"""The sections of a run's configuration other than its tasks and its methods."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from mtlcli.config.section import section

Family = Literal["encoder", "decoder", "encoder-decoder"]
"""Families of models: like BERT, like GPT-2 or Llama, like T5 or BART."""
EvalBatchSize = int | Literal["auto"]
"""The type of `runner.eval_batch_size`."""


@section
class Model:
    """The backbone."""

    kind: Literal["auto", "pretrained", "scratch"] = "auto"
    """`pretrained`: the model `name` with its weights. `scratch`: a model built from `layers`,
    `hidden`, ..., with a WordPiece tokenizer trained on the tasks' text. `auto`: `name` if the hub
    or its cache has it, else from scratch."""
    name: str | None = "google-bert/bert-base-uncased"
    """Any name or folder that `AutoModel` accepts, or `package:NAME/FOLDER` for a folder inside an
    installed package."""
    lr: Annotated[float, Gt(0), Le(1e30)] = 3e-5
    """Learning rate that suits this model; used when `optim.lr` is null."""
    pooling: Literal["auto", "pooler", "cls", "mean", "last"] = "auto"
    """How token states become one vector: by the model's own pooler, or as the state of the first
    token, the mean, or the state of the last token. `auto`: the pooler if the model has a trained
    one, the last token for decoder-only models, the mean for encoder-decoder models, else the first
    token."""
    dropout: Annotated[float, Ge(0), Lt(1)] | None = None
    """Dropout in the backbone and the heads; null: the value in the model's own configuration, or
    none from scratch."""
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    """Attention implementation of the transformers library. `auto`: its default, except for
    training on a CPU with dropout or in bf16, where plain products are faster (`eager`, with cheap
    dropout in layers like BERT's), unless `runner.fast=off`."""
    gradient_checkpointing: bool = False
    """Keep only the input of each layer and compute the rest again in the backward pass: less
    memory, about a third more time (Chen et al. 2016)."""
    frozen_layers: Annotated[int, Ge(0), Le(1000)] | None = None
    """Freeze the embeddings and this many of the lowest layers; 0: only the embeddings; null: train
    all."""
    architecture: Family = "encoder"
    """From scratch: an encoder like BERT, a decoder-only model like Llama, or an encoder-decoder
    like T5 with `layers` on each side. The last two can answer in text."""
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
class Init:
    """The weights of another run to begin with: fine-tuning, or training on other tasks, what an
    earlier run has learned."""

    from_: str | None = None
    """A run folder (its best checkpoint), or one of its checkpoints. The run begins with its
    weights, its architecture and its tokenizer, so `model` is chosen by it where `model.kind` is
    `auto`; optimiser and step begin anew."""
    heads: list[str] | None = None
    """Tasks that begin with the head that the other run has for them; null: all whose head fits,
    which the run fills in. Other tasks begin with a new head."""
    layers: Annotated[list[Annotated[int, Ge(0)]], MinLen(1)] | None = None
    """The layers of the other run's model that are taken, counted from 0, in ascending order;
    null: all. The run's model has no others (BERT, RoBERTa and ELECTRA)."""


@section
class Data:
    """Where rows come from and how they are encoded."""

    source: Literal["auto", "hub", "local", "sample"] = "auto"
    """Where the rows of tasks without a source of their own (`tasks.NAME.source.kind` or `.files`)
    come from. `auto`: `root` if it is set, else the hub or its cache, else the built-in sample
    world."""
    root: str | None = None
    """Folder with `<task path>/<split>.parquet`, `.csv`, `.jsonl.gz`, ... with the hub's
    columns."""
    max_length: Annotated[int, Ge(8), Le(1_000_000)] = 128
    """Longest input in tokens, including special tokens. Span tasks cut longer contexts into
    windows; others truncate."""
    max_train_rows: Annotated[int, Gt(0), Le(10**12)] | None = None
    """Most rows to use of every train split: a random draw by `seed` that keeps the share of each
    class; null: all."""
    shots: Annotated[int, Gt(0), Le(1_000_000)] | None = None
    """Train on this many rows of each class of every task: a random draw by `seed`, of which a
    larger number has the same rows and some more. Every task of the run needs classes. Null: all
    rows."""
    max_eval_rows: Annotated[int, Gt(0), Le(10**12)] | None = None
    """Most rows to use of every other split: a random draw by `seed` that keeps the share of each
    class; null: all."""
    folds: Annotated[int, Ge(2), Le(100)] | None = None
    """Cross-validation on the train split: cut it into this many folds, each with its share of
    every class, and groups whole (`splits.hold_out.group`). Neither validation nor test is read,
    but by `data.decontaminate`. Null: train on all of train, and score validation."""
    fold: Annotated[int, Ge(0), Lt(100)] | None = None
    """With folds: the number of the fold, from 0, that is scored, under the name `fold_0_of_5`; the
    others are trained on."""
    deduplicate: bool = False
    """Remove from every train split the rows whose inputs are those of an earlier row, whatever
    their labels; case, white space and the forms of Unicode characters make no difference."""
    decontaminate: Literal["equal", "overlap"] | None = None
    """Remove from every train split the rows that a validation or test split of its task has, too.
    `equal`: with the same inputs, compared as by `deduplicate`. `overlap`: or with 13 words in a
    row in common (Brown et al. 2020, appendix C). Null: keep them."""
    rows: Literal["auto", "memory", "disk"] = "auto"
    """Where the rows of files are while a run needs them. `disk`: in `cache_dir`, from where they
    are mapped, so that a split may be larger than memory; its files are read one after another, and
    each has to fit. `auto`: disk for splits whose files have 256 MB or more together. The results
    are the same."""
    warnings: Literal["off", "summary", "all"] = "summary"
    """Report of doubtful rows (repeated, in both train and validation, truncated). `summary`: a
    line for each task, with the rows in log.txt. `all`: every row. `off`: no check for such rows.
    `mtl tasks NAME` always shows all."""
    cache_dir: str | None = None
    """Folder of the encoded store, and of rows on disk; null: $MTL_CACHE or ~/.cache/mtl."""
    sample_seed: Annotated[int, Ge(-(2**63)), Lt(2**63)] = 0
    """Seed of the sample world."""

    @property
    def fold_split(self) -> str | None:
        """The name of the split that is scored in place of validation; None without folds. This is
        not a key of the configuration."""
        return None if self.folds is None else f"fold_{self.fold}_of_{self.folds}"


@section
class Text:
    """How a language model answers the prompts of tasks in the form of text."""

    templates: Literal["auto", "all", "first", "none"] = "auto"
    """Which templates of a task are used: all, of which training draws one for each row and epoch,
    the first alone, or the answers of the first behind a prompt that names the task and its
    columns, as in T5 (`none`). `auto`: all with a pretrained model, none with one from scratch, to
    which the words of a template say nothing and which learns one wording sooner than several."""
    predict: Literal["likelihood", "normalised", "calibrated", "generated"] = "likelihood"
    """How one of several answers is chosen: by the log likelihood of its tokens, by the same
    divided by their number (`normalised`), by the same minus its log likelihood under the prompt
    without the row's texts (`calibrated`), or by generating it. Answers to questions on a text are
    always generated."""
    max_answer: Annotated[int, Gt(0), Le(10_000)] | None = None
    """Most tokens of an answer that is generated, its end included; longer ones are cut in
    training. Null: 32, or as many as a target (`max_target_length`) or a list of tags needs."""
    beams: Annotated[int, Gt(0), Le(1000)] = 1
    """Answers that are followed at the same time while one is generated; 1: greedy."""
    sample: bool = False
    """Draw each token of a generated answer by its probability, as a function of `text.seed` and
    the row alone."""
    temperature: Annotated[float, Gt(0), Le(100)] = 1.0
    """With sample: divisor of the logits; below 1 likely tokens become more likely."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """With sample: draw among the most likely tokens that together have this probability (Holtzman
    et al. 2020)."""
    seed: Annotated[int, Ge(0), Le(10**9)] = 0
    """With sample: the seed of the draws."""


@section
class Runner:
    """How the run is carried out."""

    epochs: Annotated[float, Gt(0), Le(1_000_000)] | None = 3.0
    """Passes over the data; ignored if `runner.steps` is set."""
    steps: Annotated[int, Gt(0)] | None = None
    """Number of optimiser updates; null: as many as `epochs` takes."""
    batch_size: Annotated[int, Gt(0), Le(1_000_000)] = 32
    """Examples of a task in a step, over all devices and micro-batches."""
    max_tokens: Annotated[int, Gt(0)] | Literal["auto"] | None = None
    """Most tokens of a task in a step, padding and the texts that a decoder writes included; longer
    inputs then come in smaller batches. `auto`: as many as fit into memory, measured when the run
    starts and saved in its config.yaml. Null: no bound."""
    fast: Literal["auto", "off"] = "auto"
    """`auto`: do whatever makes the run faster on its devices and changes the result by no more
    than rounding and the choice of the elements that dropout drops. `off`: take the plain path, to
    compare with it, or to look for a mistake."""
    packing: Literal["auto", "on", "off"] = "auto"
    """`on`: inputs go through the backbone one behind another as one sequence of tokens, whose
    number is one of a few, instead of in padded rectangles. Refused where the model then gives
    other states. `auto`: on for bf16 on a GPU where model and sharing allow, else off."""
    graphs: Literal["auto", "off"] = "auto"
    """`auto`: record the kernels of a step on a GPU once for each size of its batches (CUDA
    graphs), where packing, sharing, weighting and optimiser allow it. `off`: launch them one by
    one."""
    compile: Literal["off", "on"] = "off"
    """`on`: let torch compile the layers of the backbone for training (inductor), which takes half
    a minute or more at the first step and needs a C++ compiler. It is for long runs of large models
    on a GPU; on a CPU, training becomes slower. Refused for sharing strategies that put modules
    into the layers."""
    together: bool = True
    """Pass the inputs of all tasks of a step through the shared parameters together, grouped by
    length, where sharing and weighting allow it. False: one task after the other."""
    accumulation: Annotated[int, Gt(0)] = 1
    """Micro-batches that a task's batch is cut into, to save memory. Without dropout the update
    stays the same within rounding; with dropout, other elements are dropped."""
    eval_batch_size: Annotated[int, Gt(0), Le(1_000_000)] | Literal["auto"] = "auto"
    """Examples in an evaluation batch. `auto`: 64; on a GPU as many as 32,768 tokens hold, but no
    more than 2,048."""
    eval_every: Annotated[int, Gt(0)] | None = None
    """Steps between evaluations; null: once an epoch. The last step is always evaluated."""
    eval_share: Annotated[float, Gt(0), Lt(1)] | None = None
    """Instead of `eval_every`: evaluate once an epoch, or less often, so that evaluation takes at
    most this share of the time, estimated from the number of tokens; null: no bound."""
    save_every: Annotated[int, Gt(0)] | None = None
    """Steps between checkpoints; null: at every evaluation. The last step, and the step of an
    interruption, are always saved."""
    keep: Annotated[int, Gt(0)] = 2
    """Number of newest checkpoints to keep besides the best one. With two, a damaged checkpoint is
    no loss."""
    patience: Annotated[int, Gt(0)] | None = None
    """Stop after this many evaluations without a better average score; null: never."""
    skip_nonfinite: Annotated[int, Ge(0)] = 0
    """Number of steps that may be skipped because a loss or gradient is not finite; one more stops
    the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: cuda if there is one."""
    devices: Annotated[int, Gt(0), Le(4096)] = 1
    """Number of devices (GPUs, or CPU processes), each with its share of every batch."""
    engine: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices hold the model: each the whole of it (ddp), or each a shard of every
    parameter, its gradient and the optimiser's state, for models that do not fit on one device
    (fsdp; only for weightings that know their weights before the step). `auto`: ddp."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the matrix products. `auto`: bf16 autocast where the hardware has
    instructions for bf16 products (GPUs; CPUs with AMX, AVX512-BF16 or ARM's bf16), else fp32; a
    rule, not a measurement. Losses, outputs of heads and metrics are in fp32 in any case."""
    threads: Annotated[int, Gt(0), Le(1024)] | None = None
    """CPU threads of each process; null: OMP_NUM_THREADS if it is set, else the cores shared
    evenly."""
    timeout: Annotated[float, Gt(0), Le(31_536_000)] = 1800.0
    """Seconds to wait for a rank that does not answer, at most a year."""


@section
class Logger:
    """What a run shows and writes while it trains."""

    console: Literal["auto", "live", "plain"] = "auto"
    """`live`: a view that redraws itself; `plain`: lines; `auto`: live in a terminal, else
    plain."""
    every: Annotated[int, Gt(0)] = 10
    """Steps between lines of metrics.jsonl."""
    probe: Annotated[int, Gt(0)] | None = None
    """Measure norms and cosines of the tasks' gradients every n-th step, with any weighting; the
    update stays the same. Null: only if the weighting measures them anyway."""
    affinity: Annotated[int, Gt(0)] | None = None
    """Measure every n-th step how an update for one task changes the loss of each other task (Fifty
    et al. 2021). For K tasks this takes K backward and K x K forward passes. Null: never."""
    trackers: list[Literal["csv", "tensorboard", "wandb", "mlflow"]] = field(default_factory=list)
    """Where the run can be followed besides its folder: `csv`, `tensorboard`, `wandb` (Weights &
    Biases), `mlflow`, or several. A tracker that fails never stops the run."""
    project: str | None = None
    """The W&B project, or MLflow experiment, that gets the run; null: the value of WANDB_PROJECT or
    MLFLOW_EXPERIMENT_NAME, else `mtl`."""
