"""A command line of `mtl train` is checked as a whole before anything happens; what is good is
composed by Hydra as it is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from mtlcli.cli import main
from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import Plan, preflight
from mtlcli.config import METHODS, machine, sharings
from mtlcli.config.paths import conf_dir
from mtlcli.config.schema import QUOTE_NULL
from mtlcli.config.snapshot import read_config
from mtlcli.errors import UserError
from tests.unit.config.test_conf import COUNTS

HEADER = "# @package tasks.mine\n"
MINE = """\
type: classification
source:
  files: {train: train.csv, validation: validation.csv}
columns:
  text: sentence
"""


def plan(*argv: str) -> Plan:
    return preflight(read_arguments(list(argv)))


def said(*argv: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        plan(*argv)
    return [str(problem).replace("\n    -> ", " -> ") for problem in caught.value.problems]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user with a task of their own, where mtl is typed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_conf" / "task").mkdir(parents=True)
    (tmp_path / "my_conf" / "task" / "mine.yaml").write_text(HEADER + MINE)
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("sentence,label\ngood,1\nbad,0\n")
    return tmp_path


def every_file() -> list[str]:
    return [f"{path.parent.name}={path.stem}" for path in sorted(conf_dir().glob("*/*.yaml"))]


NEEDS = {
    "sweep=optuna": ["sweep.space={seed: [0, 1]}"],
    "sweep=random": ["sweep.space={seed: [0, 1]}"],
    "task=ax": ["task=[mnli,ax]"],
    "model=pretrained": ["model.name=x/y"],
    "data=local": ["data.root=."],
    "augmentation=distill": ["augmentation.teachers=[.]"],
    "augmentation=ewc": ["task=[cola,rte]", "init.from=."],
    "augmentation=lwf": ["task=[cola,rte]", "init.from=."],
}
NEEDS["weighting=annealed"] = ["weighting.tasks.rte.start=2"]


@pytest.mark.parametrize("choice", every_file())
def test_every_file_of_conf_is_composed(choice: str) -> None:
    group, _, name = choice.partition("=")
    task = (
        []
        if group in ("task", "experiment")
        else ["task=[cola,rte]", *(["sampling=all"] if group == "weighting" else [])]
        if group == "weighting" or choice in ("sampling=dynamic", "sampling=pike")
        else ["task=rte"]
    )
    if choice == "optim=adamw_8bit" and find_spec("bitsandbytes") is None:
        with pytest.raises(
            UserError,
            match=r"needs bitsandbytes, which is not installed\n.*pip install "
            r"'mtlcli\[adamw_8bit\]'",
        ):
            plan(choice, *task)
        return
    (config,) = plan(
        *([choice] if choice != "task=ax" else []), *task, *NEEDS.get(choice, [])
    ).configs
    if group in METHODS:
        assert getattr(config, group).name == name


def test_every_file_of_conf_is_counted() -> None:
    assert len(every_file()) == sum(COUNTS.values())


def test_suites() -> None:
    glue = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"]
    assert list(plan().configs[0].tasks) == glue
    assert list(plan("task=glue_squad").configs[0].tasks) == [*glue, "squad"]
    assert list(plan("task=glue_all").configs[0].tasks) == [*glue, "wnli"]
    assert list(plan("task=[sample,squad_v2]").configs[0].tasks) == [
        "cola",
        "sst2",
        "rte",
        "stsb",
        "squad_v2",
    ]


def test_an_experiment_can_change_every_other_group() -> None:
    (config,) = plan("experiment=smoke", "runner.steps=3").configs
    assert list(config.tasks) == ["cola", "sst2", "rte", "stsb"]
    assert (config.data.source, config.model.kind, config.runner.steps) == ("sample", "scratch", 3)


def test_a_choice_that_an_experiment_undoes_is_refused(own: Path) -> None:
    """An experiment comes last, as `experiment=best` of a search with its values of everything."""
    (own / "my_conf" / "experiment").mkdir()
    (own / "my_conf" / "experiment" / "best.yaml").write_text(
        "# @package _global_\ndefaults:\n- override /task: null\n- override /sharing: lora\n"
        "sharing: {name: lora, rank: 2}\nmodel: {kind: scratch, name: null, lr: 3e-5}\n"
        "data: {max_length: 32}\ntasks: {mine: {type: classification, source: {files: {train: "
        "train.csv, validation: validation.csv}}, columns: {text: sentence}}}\n"
    )
    best = ["-cd", "my_conf", "experiment=best"]
    (config,) = plan(*best, "model=tiny", "sharing=lora", "data=sample", "sharing.rank=4").configs
    assert vars(config.sharing)["rank"] == 4 and list(config.tasks) == ["mine"]
    assert [text.partition(" -> ")[0] for text in said(*best, "model=bert", "sharing=hard")] == [
        "model=bert: has no effect: experiment=best has model of its own",
        "sharing=hard: has no effect: experiment=best has sharing of its own",
    ]
    (note,) = plan(*best, "task=rte", "data=sample").notices
    assert note == "note: experiment=best has tasks of its own, which are trained, too: mine"


def test_keys_that_no_file_spells_are_added(own: Path) -> None:
    """mine.yaml has no batch_size; the schema has."""
    good = plan(
        "-cd", "my_conf", "task=mine", "tasks.mine.batch_size=8", "+tasks.mine.labels=[a,b]"
    )
    assert good.configs[0].tasks["mine"].batch_size == 8
    assert good.configs[0].tasks["mine"].labels == ["a", "b"]
    assert good.overrides == ["task=mine", "++tasks.mine.batch_size=8", "++tasks.mine.labels=[a,b]"]


def test_options_and_values_in_any_order(own: Path) -> None:
    assert read_arguments(
        ["seed=1", "-m", "model=tiny", "-cd", "my_conf", "data=sample"]
    ).overrides == [
        "seed=1",
        "model=tiny",
        "data=sample",
    ]


def test_all_mistakes_at_once() -> None:
    wrong = [
        "taks=rte",
        "modle=x",
        "model.lrr=3",
        "tasks.coal.weight=2",
        "optim.lr=fast",
        "runner.steps=1.5",
        "+unknown.key=3",
    ]
    groups = (
        "choices: allow, augmentation, data, experiment, form, init, logger, model, optim, resume, "
        "run_dir, runner, sampling, seed, sharing, stages, sweep, task, text, weighting"
    )
    assert said(*wrong, "model=brt", "cola") == [
        "'cola' has no value -> did you mean task=cola?",
        "model=brt: unknown model 'brt' -> did you mean 'bert'? choices: auto, bert, deberta, "
        "gpt2, minilm, modernbert, pretrained, "
        "roberta, t5, tiny, tiny_decoder, tiny_t5",
        f"taks: unknown key 'taks' -> did you mean 'task'? {groups}",
        f"modle: unknown key 'modle' -> did you mean 'model'? {groups}",
        "model.lrr: unknown key 'lrr' -> did you mean 'lr'? choices: architecture, "
        "attention, dropout, frozen_layers, gradient_checkpointing, "
        "heads, hidden, initializer_range, kind, layers, "
        "lr, name, pooling, scratch_lr, vocabulary",
        "tasks.coal.weight: task 'coal' is not in the run -> did you mean 'cola'? the run has: "
        "cola, sst2, mrpc, stsb, qqp, mnli, qnli, "
        "rte",
        "unknown.key: unknown key 'unknown' -> choices: allow, augmentation, data, form, init, "
        "logger, model, optim, resume, run_dir, runner, sampling, seed, sharing, stages, sweep, "
        "tasks, text, weighting",
        "optim.lr: must be a number, found 'fast' -> Peak learning rate; null: one that suits the "
        "model and the optimiser.",
        "runner.steps: must be a whole number, found 1.5 -> Number of optimiser updates; null: as "
        "many as `epochs` takes.",
    ]


def test_a_wrong_choice_causes_no_further_problems() -> None:
    """Which tasks the run has is not known while one is misspelt; nor are the keys of a method."""
    assert [
        text.partition(" ->")[0]
        for text in said(
            "task=[cola,ret]", "tasks.rte.weight=2", "weighting=uncertanty", "weighting.lr=1"
        )
    ] == [
        "task=ret: unknown task 'ret'",
        "weighting=uncertanty: unknown weighting 'uncertanty'",
    ]


def test_an_old_name_is_answered_with_the_new_one(own: Path) -> None:
    """As a choice, as a value, in a sweep, and in a file of the user."""
    file = own / "my_conf" / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\ndefaults:\n  - override /weighting: config\n")
    answer = "'config' is now called 'conflict_free' -> type weighting=conflict_free"
    mine = ["-cd", "my_conf", "experiment=mine"]
    for where, arguments in (
        ("weighting=config", ["weighting=config", "weighting.every=2"]),
        ("weighting.name", ["weighting.name=config"]),
        ("weighting=config", mine),
        ("weighting=config", ["-m", "weighting=conflict_free,config"]),
    ):
        assert said("task=[rte,cola]", "sampling=all", *arguments) == [f"{where}: {answer}"]
    for others in ([], mine):
        assert plan("task=[rte,cola]", "sampling=all", "weighting=conflict_free", *others).configs


def test_the_old_key_of_progressive_is_answered_with_the_new_strategy() -> None:
    assert said("task=[rte,cola]", "sharing=progressive", "sharing.form=distill") == [
        "sharing.form: unknown key 'form' -> leave it out for columns, or type "
        "sharing=progressive_distill for distill"
    ]


def test_missing_values() -> None:
    assert said("data=local", "model=pretrained") == [
        "model.name: must be given -> add model.name=...",
        "data.root: must be given with data.source=local -> give the folder that holds <task "
        "path>/<split>.parquet, csv, ...",
    ]


def test_unreadable_words_are_reported() -> None:
    assert said("model.name=a[") == [
        "cannot read 'model.name=a[': a bracket is not closed -> for one text type the value in "
        "quotes that reach mtl: 'model.name=\"a[\"'"
    ]
    assert said("model.name=x=y")[0].startswith(
        "cannot read 'model.name=x=y': the character = must stand in quotes"
    )
    assert said("model.name=a'b")[0].startswith(
        "cannot read 'model.name=a'b': a quote is opened and not closed"
    )
    assert said("=3")[0].startswith("unknown key ''")
    assert said("task={a: 3}") == [
        "task: the group is chosen by name, not by value -> for example task=ag_news"
    ]
    assert said("task=null")[0].startswith("task=null: a task must be chosen")
    assert said("task=[]")[0].startswith("task: the run has no task")


@pytest.mark.parametrize("value", ["~/models/ü", "a;b", "<&>", "100€"])
def test_a_text_that_lacks_only_hydras_quotes_is_read(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "ü").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    good = plan("task=rte", f"model.name={value}")
    assert (
        good.configs[0].model.name == value.replace("~", str(tmp_path))
        and good.overrides[1] == f'++model.name="{value}"'
    )


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            ["task=[cola,", "rte]"],
            "task: the blanks in 'task=[cola, rte]' split it into several words -> put it in "
            "quotes: "
            "'task=[cola,rte]'",
        ),
        (
            ["task=cola", "rte"],
            "'rte' has no value -> several tasks are one list: 'task=[cola,rte]'",
        ),
        (
            ["task=[cola,rte]", "mrpc"],
            "'mrpc' has no value -> several tasks are one list: 'task=[cola,rte,mrpc]'",
        ),
        (["task", "=", "cola"], "task: there are blanks around the = -> type task=cola"),
        (["seed=", "3"], "seed: there are blanks around the = -> type seed=3"),
        (
            ["data.root=/my", "data"],
            "'data' has no value -> if it belongs to the value before it, put both in quotes: "
            "'data.root=\"/my data\"'",
        ),
    ],
)
def test_words_that_the_shell_has_cut_apart(words: list[str], answer: str) -> None:
    assert said(*words) == [answer]


def test_interpolations() -> None:
    assert plan("runner.eval_every=${runner.batch_size}").configs[0].runner.eval_every == 32
    assert said("data.root=${oc.env:MTL_TEST_ABSENT}", "model.name=${nosuch}") == [
        "model.name: ${nosuch} cannot be resolved: Interpolation key 'nosuch' not found -> write "
        "the value, or ${KEY} with a key of this "
        "configuration",
        "data.root: ${oc.env:MTL_TEST_ABSENT} cannot be resolved: Environment variable "
        "'MTL_TEST_ABSENT' not found -> set it",
    ]


def test_deleting() -> None:
    assert list(plan("task=[cola,rte]", "~tasks.rte").configs[0].tasks) == ["cola"]
    assert said("task=cola", "~tasks.rte")[0].startswith("tasks.rte: task 'rte' is not in the run")
    assert said("task=cola", "~optim.lr") == ["~optim.lr: it is null -> leave it out"]


def test_a_whole_task_on_the_command_line(own: Path) -> None:
    new = (
        "+tasks.new={type: classification, source: {files: {train: train.csv, validation: "
        "train.csv}}, columns: {text: sentence}}"
    )
    (config,) = plan("task=rte", "~tasks.rte", new, "tasks.new.weight=3").configs
    assert config.tasks["new"].weight == 3.0


def test_options() -> None:
    assert said("--foo") == [
        "unknown option '--foo' -> type values as key=value, for example task=rte; mtl train "
        "--help lists the options"
    ]
    assert said("--seeds", "3")[0].endswith(
        "type -m seed=0,1,2: a run, or with stages all of them, for each seed"
    )
    assert said("-m", "--cfg", "job", "--config-name", "x", "-cd", "nosuch") == [
        "--config-name: the option is not supported -> use -cd DIR and key=value",
        "--multirun and --cfg cannot be combined -> give one of them",
        f"-cd: there is no folder 'nosuch' -> relative paths start from {Path.cwd()}",
    ]


# ------------------------------------------------------------------------------------------------
# own files


@pytest.mark.parametrize(
    ("package", "proposal"),
    [
        ("tasks.my task", "my_task"),
        ("tasks.my.task", "my_task"),
        ("tasks.1st", "task_1st"),
        ("task.mine", "mine"),
        ("sharing", "sharing"),
    ],
)
def test_a_header_that_names_no_task(own: Path, package: str, proposal: str) -> None:
    (own / "my_conf" / "task" / "mine.yaml").write_text(f"# @package {package}\n{MINE}")
    assert said("-cd", "my_conf", "task=mine") == [
        f"my_conf/task/mine.yaml: the header '# @package {package}' does not name a task -> a "
        "task's name begins with a letter and has "
        f"letters, digits, - and _ only; for example # @package tasks.{proposal}"
    ]


def test_label_mistakes_are_named_by_tasks_as_by_train(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "my_conf" / "task" / "mine.yaml").write_text(HEADER + MINE)
    for labels in ("good,1\nbad,0\n", "good,1.0\nbad,0.0\n"):
        (own / "train.csv").write_text(f"sentence,label\n{labels}")
        (own / "validation.csv").write_text("sentence,label\ngood,7\nbad,typo\n")
        assert main(["tasks", "mine", "-cd", "my_conf"]) == 2
        assert "label" in capsys.readouterr().err


def test_an_own_folder_with_no_chosen_file_is_noted(own: Path) -> None:
    (own / "my_conf" / "task" / "mine.yaml").write_text(HEADER + MINE)
    assert plan("-cd", "my_conf", "data=sample", "model=tiny").notices == [
        "note: no task is chosen, so task=glue_multi is trained, and nothing of my_conf/task; it "
        "holds mine"
    ]
    assert plan("-cd", "my_conf", "data=sample", "model=tiny", "task=rte").notices == []


def test_a_forgotten_cd_option_is_suggested(own: Path) -> None:
    (own / "my_conf" / "task" / "mine.yaml").write_text(HEADER + MINE)
    assert (
        said("task=mine")[0]
        == "task=mine: unknown task 'mine' -> add -cd my_conf, which holds task/mine.yaml"
    )


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("task=./my_conf/task/mine", "type the path of the file: task=my_conf/task/mine.yaml"),
        ("task=my_conf/task/mind.yaml", "did you mean 'my_conf/task/mine.yaml'?"),
        (
            "model=./my_conf/model/big.yaml",
            "type the folder separately: -cd my_conf model=big",
        ),
        ("task=mine.yaml", "add -cd my_conf, which holds task/mine.yaml"),
        ("task=rte.yaml", "a choice is a name without folder or ending: type task=rte"),
        (
            "model=loose.yaml",
            "move the file to my_conf/model/loose.yaml, and type -cd my_conf model=loose",
        ),
        (
            "task=train.csv",
            "a file of rows needs a task file, which names its columns; this writes one: mtl new "
            "task train.csv",
        ),
        (
            "model=some/model",
            "a folder, or a name on the hub, is given with model=pretrained: model.name=some/model",
        ),
    ],
)
def test_a_path_instead_of_a_choice_is_explained(own: Path, typed: str, answer: str) -> None:
    (own / "my_conf" / "task" / "mine.yaml").write_text(HEADER + MINE)
    (own / "loose.yaml").write_text(HEADER + MINE)
    (own / "my_conf" / "model").mkdir()
    (own / "my_conf" / "model" / "big.yaml").write_text("layers: 3")
    assert said("task=rte", typed)[0].partition(" -> ")[2] == answer


@pytest.mark.parametrize("name", ["", ".", "/", '[""]'])
def test_a_choice_without_a_name_is_unknown(name: str) -> None:
    typed = name.strip('[]"')
    assert said(f"task={name}")[0].startswith(f"task={typed}: unknown task '{typed}' -> choices: ")


def test_files_whose_names_cannot_be_typed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("null", "true", "1", "a.b"):
        (own / "my_conf" / "task" / f"{name}.yaml").write_text(f"# @package tasks.{name}\n{MINE}")
    (own / "my_conf" / "task" / "mine.yaml").write_text(HEADER + MINE)
    choices = said("-cd", "my_conf", "task=nowhere")[0].partition("choices: ")[2].split(", ")
    assert "mine" in choices and not {"null", "true", "1", "a.b"} & set(choices)
    for name in ("null", "true"):
        what = (
            f"my_conf/task/{name}.yaml: task={name} is not read as the name of this file, so it "
            "cannot be chosen -> rename the file"
        )
        assert said("-cd", "my_conf", f"task={name}")[0].startswith(what)
    assert main(["tasks", "-cd", "my_conf"]) == 0
    assert capsys.readouterr().err.count("warning: ") == 4


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ("[glue_multi,rte]", ["rte is in glue_multi already; the task is trained once"]),
        (
            "[rte,cola,glue_multi]",
            ["cola, rte are in glue_multi already; each task is trained once"],
        ),
        (
            "[glue_squad,sample]",
            ["cola, sst2, rte, stsb are in glue_squad and in sample; each task is trained once"],
        ),
        ("[glue_multi,squad]", []),
        ("[rte,cola]", []),
    ],
)
def test_tasks_listed_beside_their_suite_are_noted(tasks: str, said: list[str]) -> None:
    assert plan(f"task={tasks}").notices == [f"note: task={tasks}: {line}" for line in said]


@pytest.mark.parametrize("above", ["", "# My task.\n"])
def test_a_task_without_its_header(own: Path, above: str) -> None:
    # Hydra reads a header only above everything else.
    (own / "my_conf" / "task" / "mine.yaml").write_text(above + (HEADER if above else "") + MINE)
    assert said("-cd", "my_conf", "task=mine", "tasks.mine.weight=2", "seed=-1") == [
        "my_conf/task/mine.yaml: the file does not start with the header that names its task, so "
        "its values belong to no task "
        "-> make this its first line: # @package tasks.mine",
        "seed: must be at least 0, found -1 -> Seed of weights, order of data, sampling and "
        "dropout.",
    ]


def test_a_task_file_with_a_built_in_name_is_refused(own: Path) -> None:
    (own / "my_conf" / "task" / "rte.yaml").write_text(HEADER + MINE)
    assert said("-cd", "my_conf") == [
        "my_conf/task/rte.yaml: task=rte is built in, so this file would never be read -> rename "
        "the file"
    ]


def test_a_key_that_yaml_reads_as_null(own: Path) -> None:
    (own / "my_conf" / "task" / "mine.yaml").write_text(
        HEADER + MINE + "class_weights: {null: 2}\n"
    )
    assert said("-cd", "my_conf", "task=mine") == [
        f"class_weights: one of its keys is null -> {QUOTE_NULL}"
    ]


def test_broken_yaml(own: Path) -> None:
    path = own / "my_conf" / "task" / "mine.yaml"
    path.write_text(HEADER + "type: a\n  b: c\n")
    assert said("-cd", "my_conf", "task=mine") == [
        f"{path}, line 3: the file is not valid YAML: mapping values are not allowed here -> check "
        "the indentation, "
        "and put text with : or # in quotes"
    ]


def test_a_suite_with_a_task_that_is_not_there(own: Path) -> None:
    (own / "my_conf" / "task" / "both.yaml").write_text(
        "# @package _global_\ndefaults:\n  - mine\n  - colla\n"
    )
    (text,) = said("-cd", "my_conf", "task=both")
    assert text.startswith("task/both: there is no file 'task/colla.yaml' -> did you mean 'cola'?")


def test_a_missing_file(own: Path) -> None:
    (own / "train.csv").rename(own / "trains.csv")
    assert said("-cd", "my_conf", "task=mine") == [
        "tasks.mine.source.files.train: there is no file 'train.csv' -> did you mean 'trains.csv'?"
    ]


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        (
            "my_conf/task/mine.yaml",
            "'my_conf/task/mine.yaml' is a file -> give the folder that holds the folder task/: "
            "-cd my_conf",
        ),
        (
            "my_conf/task",
            "'my_conf/task' is the folder of one group -> give the folder around it: -cd my_conf",
        ),
        ("my_cnf", "there is no folder 'my_cnf' -> did you mean 'my_conf'?"),
        (
            "empty",
            "'empty' contains no folder of a group -> put your files into folders named after the "
            "groups, as in empty/task/mine.yaml",
        ),
    ],
)
def test_a_wrong_cd_folder_is_refused(given: str, answer: str, own: Path) -> None:
    (own / "empty").mkdir()
    (text,) = said("-cd", given, "task=mine")
    assert text.startswith(f"-cd: {answer}")


def test_a_model_folder_that_is_not_there(own: Path) -> None:
    (own / "models" / "bert").mkdir(parents=True)
    (own / "models" / "bert" / "config.json").touch()
    for name, answer in {
        "/data/models/bert": "there is no folder '/data/models/bert' -> there is no folder "
        "'/data/models' either",
        "./models/brt": "there is no folder './models/brt' -> did you mean 'models/bert'?",
        "a/b/c": "there is no folder 'a/b/c' -> there is no folder 'a/b' either; relative paths "
        f"start from {own}",
        "./models/bert/config.json": "the path is a file, and a model is a folder -> give the "
        "folder that holds it: model.name=models/bert",
    }.items():
        (text,) = said("-cd", "my_conf", "task=mine", "model=pretrained", f"model.name={name}")
        assert text.startswith(f"model.name={name}: {answer}")
    assert plan(
        "-cd", "my_conf", "task=mine", "model=pretrained", "model.name=./models/bert"
    ).configs


def test_a_device_that_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert said("task=rte", "runner.device=cuda") == [
        "runner.device=cuda: CUDA_VISIBLE_DEVICES= hides every GPU of this machine -> unset "
        "CUDA_VISIBLE_DEVICES, or type runner.device=cpu"
    ]


def test_a_device_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "DRIVERS", ("/nosuch",))
    (text,) = said("task=rte", "runner.device=cuda")
    assert text.startswith(
        "runner.device=cuda: this machine has no GPU, or no driver for it -> type runner.device=cpu"
    )


# ------------------------------------------------------------------------------------------------
# sweeps


def test_several_values_without_a_sweep() -> None:
    assert said("weighting=static,uncertainty", "task=cola,rte", "seed=range(1,3)") == [
        "weighting: 'static,uncertainty' is several values -> for a sweep add -m",
        "task: 'cola,rte' is several values -> for a sweep add -m; for one list: 'task=[cola,rte]'",
        "seed: 'range(1,3)' is several values -> for a sweep add -m",
    ]
    assert said("seed=0,1") == ["seed: '0,1' is several values -> for a sweep add -m"]
    assert said("optim.lr=1,5e-4", "data.root=p,q", "optim.betas=0.9,0.99", "data=local") == [
        "optim.lr: '1,5e-4' is several values -> for a decimal number write a point: "
        "optim.lr=1.5e-4; for a sweep add -m",
        "data.root: 'p,q' is several values -> for one text with a comma quote it: "
        "'data.root=\"p,q\"'; for a sweep add -m",
        "optim.betas: '0.9,0.99' is several values -> for a sweep add -m; for one list: "
        "'optim.betas=[0.9,0.99]'",
    ]


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ("seed=1,2,1", "seed: the value 1 is given twice"),
        ("optim.lr=1e-3,0.001", "optim.lr: the value 0.001 is given twice"),
        ("optim.lr=1,1.0", "optim.lr: 1 and 1.0 are the same value"),
        ("task=choice([rte,cola],cola,[rte,cola])", "task: the value [rte,cola] is given twice"),
    ],
)
def test_a_value_that_a_sweep_has_twice(values: str, answer: str) -> None:
    again = (
        "give every value once; to run one configuration several times, sweep over seed: seed=0,1,2"
    )
    assert said("-m", "task=rte", values) == [f"{answer} -> {again}"]


def test_values_that_only_look_alike_are_separate_jobs() -> None:
    assert (
        plan(
            "-m",
            "task=[rte,cola],[cola,rte]",
            "seed=9007199254740992,9007199254740993",
            "runner.together=true,false",
        ).jobs
        == 8
    )
    assert said("-m", "task=rte", "sharing=glob(*),hard")[0].startswith(
        "sharing: glob() must stand alone, not in a list of values -> type "
    )


def test_a_sweep_is_planned() -> None:
    good = plan(
        "-m",
        "task=[cola,rte]",
        "tasks.cola.weight=0.5,1,2",
        "weighting=static,uncertainty",
        "seed=range(0,2)",
    )
    assert good.swept == ["tasks.cola.weight", "weighting", "seed"]
    assert len(good.configs) == 3 * 2 * 2
    assert good.overrides == [
        "task=[cola,rte]",
        "++tasks.cola.weight=0.5,1,2",
        "weighting=static,uncertainty",
        "++seed=range(0,2)",
    ]


def test_every_value_of_every_sweep_is_tried() -> None:
    """However long the sweep: the wrong value is the last of 14,400 combinations."""
    assert said(
        "-m",
        "task=rte",
        "seed=range(0,20)",
        "data.sample_seed=range(0,20)",
        "runner.steps=range(1,19)",
        "optim.lr=choice(1e-3,-1)",
    ) == [
        "optim.lr: must be greater than 0, found -1 -> Peak learning rate; null: one that suits "
        "the model and the optimiser."
    ]
    assert said("-m", "task=rte", "runner.steps=range(15,-1,-1)")[0].startswith(
        "runner.steps: must be greater than 0, found 0"
    )
    assert said("-m", "seed=1,2", "optim.lr=1e-3,-1", "sharing=hard,nine") == [
        "sharing=nine: unknown sharing 'nine' -> did you mean 'none'? choices: "
        f"{', '.join(sorted(sharings))}",
        "optim.lr: must be greater than 0, found -1 -> Peak learning rate; null: one that suits "
        "the model and the optimiser.",
    ]


def test_a_combination_that_cannot_work_is_named() -> None:
    assert said("-m", "task=[cola],[cola,rte]", "tasks.rte.weight=2") == [
        "tasks.rte.weight: task 'rte' is not in the run (in the job task=[cola]) -> the run has: "
        "cola"
    ]
    assert said("-m", "weighting=static,uncertainty", "weighting.lr=0.1") == [
        "weighting.lr: unknown key 'lr' (in the job weighting=static) -> only "
        "weighting=famo, gradnorm, imtl, imtl_l "
        "or uncertainty has that key; choices here: name"
    ]


def test_globs_are_expanded_or_refused() -> None:
    assert len(plan("-m", "sampling=glob(*)").configs) == 11
    assert said("-m", "task=glob(z*)") == ["task: 'task=glob(z*)' gives no value at all"]


SAME = [
    ["task=[cola,rte]", "tasks.cola.weight=2", "~tasks.rte"],
    ["model.name=a/b", "optim.betas=[0.8,0.9]", "optim.lr=1e-3"],
    ["model=tiny", "model={lr: 1e-5}", "runner.eval_every=${runner.batch_size}", "data.root=null"],
    [
        "task=sst2",
        "tasks.sst2.source.files={train: t.csv}",
        "+tasks.sst2.source.files.validation=v.csv",
    ],
    ["task=rte", "model.name='a: b'", "tasks.rte.labels=[\"yes\",'no']", "~optim.clip"],
]


@pytest.mark.parametrize("overrides", SAME)
def test_the_checked_config_is_the_one_that_hydra_composes(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are set on plain dictionaries here; Hydra, given the rewritten overrides, must come to
    the same configuration."""
    monkeypatch.chdir(tmp_path)
    for name in ("t.csv", "v.csv"):
        (tmp_path / name).touch()
    good = plan(*overrides)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed, problems = read_config(compose("train", good.overrides))
    assert problems == []
    assert good.configs == [composed]
