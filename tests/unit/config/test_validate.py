"""Mistakes in the values of a run, in the words that the user reads."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mtlcli.config import Config, sharings, task_types
from mtlcli.config.schema import QUOTE_TRUTHS
from mtlcli.config.section import hints
from mtlcli.config.validate import check, check_key, docs, validate
from mtlcli.errors import UserError

GOOD: dict[str, Any] = {
    "tasks": {
        "cola": {
            "type": "classification",
            "source": {"path": "glue/cola"},
            "columns": {"text": "sentence"},
        },
        "stsb": {
            "type": "regression",
            "source": {"path": "glue/stsb"},
            "columns": {"text": "sentence1", "text_pair": "sentence2"},
        },
        "squad": {"type": "span", "source": {"path": "squad"}},
    },
    "sharing": {"name": "hard"},
    "weighting": {"name": "static"},
    "sampling": {"name": "proportional"},
    "optim": {"name": "adamw"},
}


def changed(**values: Any) -> dict[str, Any]:
    """GOOD with the values at dotted keys (with __ for the dots) set; ... deletes."""
    result = copy.deepcopy(GOOD)
    for key, value in values.items():
        *path, last = key.split("__")
        holder = result
        for part in path:
            holder = holder.setdefault(part, {})
        if value is ...:
            del holder[last]
        else:
            holder[last] = value
    return result


def said(values: dict[str, Any]) -> list[str]:
    config, problems = check(values)
    assert (config is None) == bool(problems)
    return [str(problem) for problem in problems]


def test_good_values_make_a_config() -> None:
    config = validate(GOOD)
    assert isinstance(config, Config)
    assert list(config.tasks) == ["cola", "stsb", "squad"]
    assert config.model.lr == 3e-5, "defaults are filled"


LEARNING_RATE = "Peak learning rate; null: one that suits the model and the optimiser."
ONE: list[tuple[dict[str, Any], str, str]] = [
    (
        changed(runner__stepz=3),
        "runner.stepz: unknown key 'stepz'",
        "did you mean 'steps'? choices: accumulation, batch_size, compile, device, devices, "
        "engine, epochs, eval_batch_size, eval_every, eval_share, fast, graphs, keep, max_tokens, "
        "packing, patience, precision, save_every, skip_nonfinite, steps, threads, timeout, "
        "together",
    ),
    (
        changed(tasks__cola__source__pth="x"),
        "tasks.cola.source.pth: unknown key 'pth'",
        "did you mean 'path'? choices: files, header, hub, hub_config, kind, path",
    ),
    (
        changed(model__lr="fast"),
        "model.lr: must be a number, found 'fast'",
        "Learning rate that suits this model; used when `optim.lr` is null.",
    ),
    (
        changed(runner__steps=2.5),
        "runner.steps: must be a whole number, found 2.5",
        "Number of optimiser updates; null: as many as `epochs` takes.",
    ),
    (
        changed(tasks__squad__no_answer="no"),
        "tasks.squad.no_answer: must be true or false, found 'no'",
        "Whether questions may have no answer (SQuAD 2.0).",
    ),
    (
        changed(tasks__cola__labels=["bad", True]),
        "tasks.cola.labels[1]: must be text, found true",
        "put it in quotes: YAML reads yes, no, on, off, true and false without quotes as true or "
        "false",
    ),
    (
        changed(
            tasks__cola__source={"files": {"train": ["a.csv", "b.csv"], "validation": "c.csv"}}
        ),
        'tasks.cola.source.files.train: must be text, found ["a.csv", "b.csv"]',
        "a split is read from one file: join the files into one, with a single header line",
    ),
    (
        changed(data__root=3),
        "data.root: must be text, found 3",
        "put it in quotes: YAML reads it as a number without them",
    ),
    (
        changed(tasks__cola__columns=3),
        "tasks.cola.columns: must be a section, found 3",
        "give its keys, as tasks.cola.columns.KEY=VALUE: label, text, text_pair",
    ),
    (
        changed(tasks__cola=None),
        "tasks.cola: must be a section, found null",
        "to leave the task out type ~tasks.cola; to change it give one of its keys, as "
        "tasks.cola.weight=2",
    ),
    (
        changed(sampling=None),
        "sampling: must be a section, found null",
        "choose one by name, sampling.name: all, annealed, curriculum, dynamic, pike, "
        "proportional, replay, round_robin, sqrt, temperature, uniform",
    ),
    (changed(runner__steps=1e1), "runner.steps: must be a whole number, found 10.0", "write 10"),
    (
        changed(seed="1..3"),
        "seed: must be a whole number, found '1..3'",
        "write range(1,4), in quotes for the shell, and add -m: a sweep over these numbers",
    ),
    (
        changed(runner__steps="10"),
        "runner.steps: must be a whole number, found '10'",
        "write 10 without quotes",
    ),
    (
        changed(optim__lr="1e-3"),
        "optim.lr: must be a number, found '1e-3'",
        "write 1e-3 without quotes",
    ),
    (
        changed(runner__together="true"),
        "runner.together: must be true or false, found 'true'",
        "write true without quotes",
    ),
    (
        changed(tasks__squad__columns={"text": "a"}),
        "tasks.squad.columns.text: unknown key 'text'",
        "only a task of type classification, mlm, multilabel, regression, relation or seq2seq has "
        "that key; choices here: answers, context, id, question",
    ),
    (
        changed(tasks__cola__columns={"text": "a", "labels": "b"}),
        "tasks.cola.columns.labels: unknown key 'labels'",
        "did you mean 'label'? choices: label, text, text_pair",
    ),
    (
        changed(tasks__cola__source={"path": "x", "train": "a.csv"}),
        "tasks.cola.source.train: unknown key 'train'",
        "did you mean tasks.cola.source.files.train?",
    ),
    (
        changed(tasks__cola__metrics="f1"),
        "tasks.cola.metrics: must be a list, found 'f1'",
        "Metrics to compute; the first is the main one, which must rise as predictions get better. "
        "Empty: the defaults of the task type. "
        "`evaluate:NAME` is a metric of the package `evaluate`, which runs the code of that "
        "metric: it must be typed on the command line.",
    ),
    (
        changed(runner__packing=True),
        "runner.packing: true is not one of its values",
        f"{QUOTE_TRUTHS}; choices: auto, off, on",
    ),
    (
        changed(model__kind="pretraind"),
        "model.kind: 'pretraind' is not one of its values",
        "did you mean 'pretrained'? choices: auto, pretrained, scratch",
    ),
    (
        changed(sharing__name="hrd"),
        "sharing.name: unknown name 'hrd'",
        f"did you mean 'hard'? choices: {', '.join(sorted(sharings))}",
    ),
    (
        changed(tasks__cola__type="classify"),
        "tasks.cola.type: unknown type 'classify'",
        f"did you mean 'classification'? choices: {', '.join(sorted(task_types))}",
    ),
    (
        changed(tasks__cola__type=...),
        "tasks.cola.type: must be given",
        f"choices: {', '.join(sorted(task_types))}",
    ),
    (
        changed(weighting=...),
        "weighting: must be given",
        "How the tasks' losses become one update.",
    ),
    (changed(tasks__cola__columns=...), "tasks.cola.columns: must be given", "Column names."),
    (
        changed(seed=-1),
        "seed: must be at least 0, found -1",
        "Seed of weights, order of data, sampling and dropout.",
    ),
    (
        changed(model__dropout=1.0),
        "model.dropout: must be less than 1, found 1.0",
        "Dropout in the backbone and the heads; null: the value in the model's own configuration, "
        "or none from scratch.",
    ),
    (changed(optim__lr=0), "optim.lr: must be greater than 0, found 0", LEARNING_RATE),
    (
        changed(optim__lr=float("nan")),
        "optim.lr: must be a finite number, found nan",
        LEARNING_RATE,
    ),
    (
        changed(data__cache_dir="a\udcff"),
        "data.cache_dir: must be text in UTF-8, found 'a\\udcff'",
        "Folder of the encoded store, and of rows on disk; null: $MTL_CACHE or ~/.cache/mtl.",
    ),
    (
        changed(optim__betas=[0.9]),
        "optim.betas: needs at least 2 entries, found [0.9]",
        "Decay of AdamW's two moments.",
    ),
    (
        changed(tasks={}),
        "task: the run has no task",
        "choose some, for example task=rte or 'task=[cola,rte]'; mtl tasks lists them",
    ),
    (
        changed(weighting__lr=0.1),
        "weighting.lr: unknown key 'lr'",
        "only weighting=famo, gradnorm, imtl, imtl_l or uncertainty has that key; choices here: "
        "name",
    ),
    (
        changed(tasks__stsb__labels=["a", "b"]),
        "tasks.stsb.labels: unknown key 'labels'",
        "only a task of type classification, multilabel, relation or tagging has that key; "
        "choices here: "
        "augment, batch_size, columns, decimal_comma, dropout, form, head, head_layers, lr_factor, "
        "max_length, max_train_rows, metrics, range, source, splits, templates, type, unlabelled, "
        "weight",
    ),
    (
        changed(sharing={"name": "hard", "strenght": 1}),
        "sharing.strenght: unknown key 'strenght'",
        "did you mean 'strength'? only sharing=progressive_distill or soft has that key; choices "
        "here: name",
    ),
    (
        changed(tasks__cola__labels=["NA", None]),
        "tasks.cola.labels[1]: must be text, found null",
        "put it in quotes: YAML reads null, Null, NULL, ~ and an empty entry without quotes as no "
        "value",
    ),
]


@pytest.mark.parametrize("value", [None, 3.5, 1e300, "x", [], {}, {"a": {}}])
def test_every_mistake_has_a_line_on_what_to_do(value: Any) -> None:
    sections = {
        name: section
        for name, section in hints(Config).items()
        if name in ("model", "data", "runner", "logger")
    }
    keys = {name: dict.fromkeys(hints(section), value) for name, section in sections.items()}
    tasks = [{key: value} for task in ("cola", "stsb", "squad") for key in GOOD["tasks"][task]]
    for values in (
        keys,
        *({"tasks": {"cola": GOOD["tasks"]["cola"] | task}} for task in tasks),
        {"tasks": {"a": value}, "model": value},
    ):
        _, problems = check(GOOD | values)
        assert [str(problem) for problem in problems if not problem.fix] == []


@pytest.mark.parametrize(
    ("value", "what", "fix"),
    [
        (
            "aut",
            "must be a whole number or a word, found 'aut'",
            "did you mean 'auto'? choices: auto",
        ),
        (0, "must be greater than 0, found 0", "Most tokens of a task"),
        (1.5, "must be a whole number, found 1.5", "Most tokens of a task"),
        ([7], "must be a whole number, found [7]", "Most tokens of a task"),
    ],
)
def test_a_number_or_a_word(value: Any, what: str, fix: str) -> None:
    (problem,) = said(changed(runner__max_tokens=value))
    assert problem.startswith(f"runner.max_tokens: {what}\n    -> {fix}"), problem


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            "al",
            "sharing.layers: must be a list or a word, found 'al'\n    -> did you mean 'all'? "
            "choices: all",
        ),
        (3, "sharing.layers: must be a list, found 3\n    -> "),
        (["a"], "sharing.layers[0]: must be a whole number, found 'a'\n    -> "),
        ([], "sharing.layers: needs at least 1 entry, found []\n    -> "),
    ],
)
def test_a_list_or_a_word(value: Any, text: str) -> None:
    (problem,) = said(changed(sharing={"name": "soft", "layers": value}))
    assert problem.startswith(text), problem


@pytest.mark.parametrize(
    ("values", "what", "fix"), ONE, ids=[what.partition(":")[0] for _, what, _ in ONE]
)
def test_one_mistake(values: dict[str, Any], what: str, fix: str) -> None:
    assert said(values) == [f"{what}\n    -> {fix}"]


def test_all_mistakes_at_once() -> None:
    """Of single values, of missing ones, and of values that do not go together."""
    values = changed(
        sharing__name="hrd",
        tasks__cola__type="clas",
        tasks__stsb__weight="2",
        runner__steps=0,
        tasks__squad__metrics=["squat"],
        seeed=1,
    )
    assert [line.partition("\n")[0] for line in said(values)] == [
        "tasks.cola.type: unknown type 'clas'",
        "tasks.stsb.weight: must be a number, found '2'",
        "sharing.name: unknown name 'hrd'",
        "runner.steps: must be greater than 0, found 0",
        "seeed: unknown key 'seeed'",
        "tasks.squad.metrics: unknown metric 'squat'",
    ]


def test_misspelt_keys_of_a_task_are_named_and_nothing_follows_from_them() -> None:
    """Not that `type` or `columns` is missing, nor that the run has no task."""
    cola = dict(GOOD["tasks"]["cola"])
    columns, kind = cola.pop("columns"), cola.pop("type")
    for wrong, named in (
        ({"typ": kind, "columns": columns}, ["typ"]),
        ({"type": kind, "colums": columns}, ["colums"]),
        ({"typ": kind, "colums": columns}, ["typ", "colums"]),
    ):
        assert [
            line.partition(" choices")[0] for line in said(GOOD | {"tasks": {"cola": cola | wrong}})
        ] == [
            f"tasks.cola.{key}: unknown key '{key}'\n    -> did you mean "
            f"'{ {'typ': 'type', 'colums': 'columns'}[key] }'?"
            for key in named
        ]


def test_a_refused_value_is_reported_once() -> None:
    """`steps: x` is taken out to look at the rest; that nothing then says how long the run is, is
    no second mistake."""
    assert [
        line.partition("\n")[0] for line in said(changed(runner__steps="x", runner__epochs=None))
    ] == ["runner.steps: must be a whole number, found 'x'"]
    assert [
        line.partition("\n")[0] for line in said(changed(tasks__cola__source={"paht": "x"}))
    ] == ["tasks.cola.source.paht: unknown key 'paht'"]


def test_validate_raises_everything() -> None:
    with pytest.raises(UserError) as caught:
        validate(changed(seed=-1, optim__lr=-1))
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    "key",
    [
        "seed",
        "tasks.cola.weight",
        "tasks.cola.source.files.train",
        "optim",
        "tasks.squad.stride",
        "model.name",
    ],
)
def test_known_keys(key: str) -> None:
    assert check_key(key, GOOD) is None


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (
            "tasks.coal.weight",
            "tasks.coal.weight: task 'coal' is not in the run\n    -> did you mean 'cola'? the run "
            "has: cola, stsb, squad",
        ),
        (
            "tasks.rte.weight",
            "tasks.rte.weight: task 'rte' is not in the run\n    -> the run has: cola, stsb, squad",
        ),
        ("lr", "lr: unknown key 'lr'\n    -> did you mean optim.lr? (model.lr has the same name)"),
        (
            "batchsize",
            "batchsize: unknown key 'batchsize'\n    -> did you mean runner.batch_size? "
            "(tasks.NAME.batch_size has the same name)",
        ),
        ("weight", "weight: unknown key 'weight'\n    -> did you mean tasks.NAME.weight?"),
        (
            "init.form",
            "init.form: unknown key 'form'\n    -> did you mean 'from'? choices: from, heads, "
            "layers; tasks.NAME.form has that key",
        ),
        (
            "seed.x",
            "seed.x: 'seed' is a single value and has no keys\n    -> Seed of weights, order of "
            "data, sampling and dropout.",
        ),
        (
            "task.weight",
            "task.weight: unknown key 'task'\n    -> the values of a task are at tasks.NAME, for "
            "example tasks.rte.weight=2",
        ),
    ],
)
def test_unknown_keys(key: str, text: str) -> None:
    assert str(check_key(key, GOOD)) == text


def test_the_nearest_key_depends_on_what_was_typed() -> None:
    """`taks=rte` means the group of files, `taks.rte.weight=2` the section."""
    assert "did you mean 'task'?" in str(check_key("taks", GOOD))
    assert "did you mean 'tasks'?" in str(check_key("taks.cola.weight", GOOD))
    assert "did you mean 'weight'?" in str(check_key("tasks.cola.wieght", GOOD))


def test_every_field_has_a_docstring() -> None:
    """It is what the user reads when the value is wrong."""
    from mtlcli.config import (
        Data,
        Logger,
        Model,
        Runner,
        augmentations,
        optims,
        samplings,
        sharings,
        weightings,
    )
    from mtlcli.config.task import Source, Splits, TextColumns
    from mtlcli.tasks.span import SpanColumns

    sections = [Config, Data, Logger, Model, Runner, Source, Splits, TextColumns, SpanColumns]
    sections += [
        config
        for registry in (augmentations, optims, samplings, sharings, task_types, weightings)
        for config in registry.configs.values()
    ]
    for section in sections:
        assert set(docs(section)) == set(section.__dataclass_fields__), section  # type: ignore[attr-defined]
