"""What goes with what: every cell of the tables in docs/combinations.md is run, or its refusal is
shown.

One run holds a task of every kind that goes with its sharing strategy and its family of models.
Each weighting makes a step of all kinds on each family, and a step of two tasks with each strategy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.combinations import FAMILIES, Kind, kinds, refusals
from mtlcli.cli.preflight import preflight
from mtlcli.config import Config, sharings, task_types, weightings
from mtlcli.config.crosscheck import crosscheck
from mtlcli.config.section import replaced
from mtlcli.config.sharing import Staging
from mtlcli.distributed.process_group import connect
from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import Problem, UserError
from mtlcli.prepare.prepare import Prepared, prepare
from mtlcli.rundir.console import Console
from mtlcli.rundir.folder import RunFolder
from mtlcli.runner import rank
from mtlcli.runner.job import Job
from mtlcli.training.run import build_weighting
from mtlcli.training.step import Backward
from mtlcli.training.trainer import Trainer
from mtlcli.weighting.losses.annealed import AnnealedTask
from tests.families import save_family
from tests.warm import mtl

MODELS = {"encoder": "tiny", "decoder": "tiny_decoder", "encoder-decoder": "tiny_t5"}
TASKS = {
    ("choice", "head"): "swag",
    ("classification", "head"): "cola",
    ("mlm", "head"): "wikitext",
    ("multilabel", "head"): "go_emotions",
    ("ranking", "head"): "ms_marco",
    ("regression", "head"): "stsb",
    ("relation", "head"): "semeval2010_task8",
    ("seq2seq", "head"): "multi30k",
    ("span", "head"): "squad",
    ("tagging", "head"): "ud_pos",
    ("choice", "text"): "copa",
    ("classification", "text"): "rte",
    ("multilabel", "text"): "go_emotions_text",
    ("regression", "text"): "stsb_text",
    ("relation", "text"): "tacred",
    ("seq2seq", "text"): "samsum",
    ("span", "text"): "squad_v2",
    ("tagging", "text"): "wnut_17",
}
"""A task of each kind that goes with some family. NAME_text is NAME in the other form."""
SIZES = [
    *("model.layers=2", "model.hidden=16", "model.heads=2", "data.max_length=32", "data=sample"),
    *("data.max_train_rows=6", "data.max_eval_rows=2", "data.warnings=off", "runner.batch_size=2"),
    *("runner.steps=2", "logger.every=1"),
    *("runner.device=cpu", "runner.threads=1", "sampling=all", "logger.console=plain"),
    # What does not change has no gradient then.
    *("optim.weight_decay=0", "optim.warmup=0"),
    *("tasks.multi30k.max_target_length=8", "tasks.squad.max_length=48", "tasks.squad.stride=8"),
    "tasks.squad.max_question_length=16",
]
INVARIANT = {f"heads.{name}.output.bias" for name in ("swag", "ms_marco", "squad")}
"""Biases of heads that compare scores with one another: they make no difference, and change by
nothing but rounding."""


@cache
def world(family: str) -> tuple[Config, Prepared]:
    """A run with a task of each kind that goes with a family, and its data."""
    names = {TASKS[kind.type, kind.form] for kind in possible() if kind.family == family}
    # One family is trained in bf16.
    form = "bf16" if family == "encoder" else "fp32"
    options = [*SIZES, f"model={MODELS[family]}", f"runner.precision={form}"]
    texts = sorted(names & {name for (_, form), name in TASKS.items() if form == "text"})
    copies = [name for name in texts if name.endswith("_text")]
    for name in set(texts) - set(copies):
        options += [f"tasks.{name}.form=text", f"tasks.{name}.max_length=48"]
    options += ["text.max_answer=2"] if texts else []
    config = checked(sorted(names - set(copies)), *options)[0]
    for name in copies:
        again = replace(config.tasks[name.removesuffix("_text")], form="text", max_length=48)
        config = replaced(config, {f"tasks.{name}": again})
    return config, prepare(config)


def checked(names: Iterable[str], *options: str, sweep: bool = False) -> list[Config]:
    """The configurations of a command line without mistakes."""
    arguments = [*(["-m"] if sweep else []), f"task=[{','.join(names)}]", *options]
    return preflight(read_arguments(arguments)).configs


@cache
def possible() -> list[Kind]:
    """The kinds of tasks that go with some family."""
    return [kind for kind in kinds() if not refusals(kind)]


def fitting(family: str, sharing: str) -> list[str]:
    """The tasks of the kinds that go with a family and a sharing strategy."""
    return [
        TASKS[kind.type, kind.form]
        for kind in possible()
        if kind.family == family and not refusals(kind, sharing=sharing)
    ]


def options_of(sharing: str, weighting: str, names: list[str]) -> dict[str, Any]:
    """The methods, with options that let tasks share parameters where a weighting needs it."""
    chosen = sharings.configs[sharing]()
    needs = weightings.configs[weighting].needs
    if isinstance(chosen, Staging):
        halves = [names[: len(names) // 2], names[len(names) // 2 :]]
        chosen = replace(chosen, stages=halves, lengths=[1])
    if sharing == "soft" and needs.shared_parameters:
        chosen = replace(chosen, layers=[0])  # type: ignore[call-arg]
    more = {"tasks": {names[0]: AnnealedTask(start=2.0)}} if weighting == "annealed" else {}
    return {"sharing": chosen, "weighting": weightings.configs[weighting](**more)}


@contextmanager
def trainer(family: str, sharing: str, weighting: str, folder: Path) -> Iterator[Trainer]:
    """The trainer of a run of all fitting tasks, whose configuration has no problem."""
    config, prepared = world(family)
    names = fitting(family, sharing)
    config = replaced(config, {"tasks": {name: config.tasks[name] for name in names}})
    config = replaced(config, options_of(sharing, weighting, names))
    if isinstance(config.sharing, Staging):
        # Two for the second stage: a factor that begins at zero holds the other still in the first.
        config = replaced(config, {"runner.steps": 3})
    assert crosscheck(config, {}) == []
    parts = (prepared.tasks, prepared.tables, prepared.features)
    tasks, tables, features = ({name: part[name] for name in names} for part in parts)
    prepared = replace(prepared, tasks=tasks, tables=tables, features=features)  # type: ignore[arg-type]
    job = Job(config, prepared, RunFolder(folder))
    job.folder.write_environment(command=["mtl"], data={"source": "sample", "tasks": {}}, seed=0)
    with (
        connect(config.runner) as ranks,
        Interrupt() as interrupt,
        Console("plain", folder / "log.txt", silent=True) as console,
    ):
        run = rank._build_run(job, None, ranks, interrupt, console)
        console.start(names, 0, run.steps)
        with run.saver:
            yield Trainer(run)


@cache
def going_with(sharing: str) -> list[str]:
    """The weightings that go with a strategy, by default or with its setting `to_share`."""
    more = bool(sharings.configs[sharing].to_share)
    return [name for name in weightings if more or not refused(sharing, name)]


@cache
def refused(sharing: str, weighting: str) -> list[Problem]:
    """Why a weighting does not go with a strategy by default."""
    return refusals(Kind("classification"), sharing=sharing, weighting=weighting)


@pytest.mark.parametrize("sharing", list(sharings))
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_is_trained_and_evaluated(tmp_path: Path, family: str, sharing: str) -> None:
    with trainer(family, sharing, "static", tmp_path) as made:
        run = made.run
        parameters = dict(run.model.named_parameters())
        before = {name: each.detach().clone() for name, each in parameters.items()}
        trained: dict[str, torch.nn.Parameter] = {}
        for _ in range(run.steps):
            made.maybe_enter_next_stage()
            made.train_step()
            trained |= {name: each for name, each in parameters.items() if each.requires_grad}
        made.conclude()
        results = made._evaluate()[0]["tasks"]
    assert sorted(results) == sorted(fitting(family, sharing))
    assert all(math.isfinite(entry["main"]) for entry in results.values())
    counts = run.model.parameter_counts()
    assert counts["total"] == counts["shared"] + sum(counts["per_task"].values())
    # What is there to be trained has changed.
    assert {name for name, each in trained.items() if torch.equal(each, before[name])} <= INVARIANT


@pytest.mark.parametrize(
    ("family", "sharing", "count"),
    [
        *((family, "hard", None) for family in FAMILIES),
        *(("encoder", name, 2) for name in sharings),
    ],
)
def test_every_weighting_makes_a_step(
    tmp_path: Path, family: str, sharing: str, count: int | None
) -> None:
    usual = next(name for name in ("pcgrad", "static") if name in going_with(sharing))
    with trainer(family, sharing, usual, tmp_path) as made:
        run = made.run
        tasks = run.stages.tasks(made.state.stage)[:count]
        batches = {name: run.fetch(name, 0) for name in tasks}
        step = replace(made._describe_step(batches), tasks=tasks)
        users = run.model.users()
        trained = {
            name: each
            for name, each in run.model.named_parameters()
            if each.requires_grad and not set(tasks).isdisjoint(users[name])
        }
        for weighting in going_with(sharing):
            config = replaced(run.config, options_of(sharing, weighting, tasks))
            method = build_weighting(config, {name: run.model.tasks[name] for name in tasks})
            backward = Backward(run.model, method, run.ranks, bf16=run.bf16, tasks=tasks)
            run.model.zero_grad()
            if method.validates(step):
                method.observe_validation(step, backward.passes.losses(batches))
            backward(batches, step)
            for name, each in trained.items():
                assert each.grad is not None, (weighting, name)
                assert bool(each.grad.to_dense().isfinite().all()), (weighting, name)


# ------------------------------------------------------------------------------------------------
# refusals


def said(names: Iterable[str], *options: str, sweep: bool = False) -> list[str]:
    """What the command line answers to an impossible combination."""
    with pytest.raises(UserError) as caught:
        checked(names, *options, sweep=sweep)
    return [problem.what.partition(" (in the job")[0] for problem in caught.value.problems]


def told(problems: Iterable[Problem], name: str) -> list[str]:
    """What the table says of a task, with the task's name."""
    return [each.what.replace("NAME", name) for each in problems if "OTHER" not in str(each)]


@pytest.mark.parametrize("form", ["head", "text"])
@pytest.mark.parametrize("family", FAMILIES)
def test_kinds_that_a_family_does_not_have_are_refused(family: str, form: str) -> None:
    every = [kind for kind in kinds() if (kind.family, kind.form) == (family, form)]
    expected = {text for kind in every for text in told(refusals(kind), TASKS[kind.type, "head"])}
    names = [TASKS[kind.type, "head"] for kind in every]
    options = ("data=sample", f"model={MODELS[family]}", f"form={form}")
    assert not expected or expected == set(said(names, *options))
    assert bool(expected) == (
        (family, form) not in (("encoder", "head"), ("encoder-decoder", "head"))
    )


@pytest.mark.parametrize(
    ("family", "sharing"),
    [
        (family, name)
        for family in FAMILIES
        for name in sharings
        if len(fitting(family, name)) < len(fitting(family, "hard"))
    ],
)
def test_kinds_that_a_strategy_does_not_take_are_refused(family: str, sharing: str) -> None:
    config, _ = world(family)
    by_name = {TASKS[kind.type, kind.form]: kind for kind in possible() if kind.family == family}
    config = replaced(config, {"sharing": sharings.configs[sharing]()})
    found = {problem.what for problem in crosscheck(config, {})}
    for name in set(by_name) - set(fitting(family, sharing)):
        texts = told(refusals(by_name[name], sharing=sharing), name)
        assert texts and found.issuperset(texts), name


def test_weightings_that_do_not_go_with_a_strategy_are_refused() -> None:
    pairs = [(one, name) for one in sharings for name in weightings if refused(one, name)]
    for pair in pairs:
        for text in told(refused(*pair), "cola"):
            assert f"weighting={pair[1]} compares" in text, pair
    # The command says it of one weighting of each kind.
    kinds_of_needs = {str(weightings.configs[name].needs): name for _, name in pairs}
    chosen, methods = list(dict.fromkeys(one for one, _ in pairs)), list(kinds_of_needs.values())
    options = (f"sharing={','.join(chosen)}", f"weighting={','.join(methods)}")
    small = ("data=sample", "model=tiny", "sampling=all")
    answers = said(["cola", "rte"], *small, *options, sweep=True)
    for pair in pairs:
        if pair[1] in methods:
            assert set(told(refused(*pair), "cola")) <= set(answers), pair


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("gpt2", ["task=[wikitext,cola]"], "reads from left to right"),
        ("gpt2", ["task=[squad,cola]", "form=text", "sharing=pal"], "answers are generated there"),
        ("bert", ["task=[rte,cola]", "form=text"], "an encoder cannot answer in text"),
    ],
)
def test_what_the_files_of_a_model_tell_is_refused_before_the_run(
    tmp_path: Path, family: str, options: list[str], reason: str
) -> None:
    save_family(family, tmp_path / "model")
    small = (
        "data=sample",
        "data.max_train_rows=20",
        "data.max_length=32",
        f"run_dir={tmp_path / 'run'}",
    )
    model = ("model=pretrained", f"model.name={tmp_path / 'model'}")
    done = mtl("train", *options, *small, *model)
    assert done.returncode == 2 and reason in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["task=cola", "sampling=dynamic"],
            "learns which task to draw, and the run trains only one",
        ),
        (
            ["sharing=lora", "sharing.rank=100"],
            "a change of rank 100 is no more than one of rank 64",
        ),
        (["sharing=mtl_lora", "sharing.rank=65"], "a change of rank 65 is no more than one of"),
        (
            ["optim.plateau=1", "runner.steps=4", "runner.eval_every=2"],
            "and the run has 1 before the last step",
        ),
    ],
)
def test_values_without_effect_are_refused(tmp_path: Path, options: list[str], reason: str) -> None:
    small = (
        "task=[cola,rte]",
        "data=sample",
        "data.max_train_rows=20",
        f"run_dir={tmp_path / 'run'}",
    )
    done = mtl("train", *small, "model=tiny", *options)
    assert done.returncode == 2 and reason in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


def test_every_kind_has_a_task_here() -> None:
    assert {(kind.type, kind.form) for kind in possible()} == set(TASKS)
    assert {kind.type for kind in kinds()} == set(task_types)
