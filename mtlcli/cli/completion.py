"""The completion of command lines: `mtl completion SHELL` prints a script, which asks the hidden
`mtl --complete` for candidates at every TAB.

A TAB has to feel instant, so this module reads the files in conf/ and the config dataclasses, and
imports nothing heavier: neither torch nor Hydra or pydantic. It is written by hand for that reason
and two more:

- Hydra's own completion composes the configuration at every TAB, which takes twice as long as all
  that is done here (0.40 s of CPU time instead of 0.20 s). It offers keys and choices, but neither
  the values of a key (`runner.precision=b`) nor anything in a list (`task=[cola,rt`).
- argcomplete completes the options of an argparse parser, and shtab writes a fixed script from one.
  The words here are `KEY=VALUE`, which argparse does not know, and their candidates depend on the
  words before them. argcomplete would replace only the scripts and the lexer.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mtlcli.cli import VERBS
from mtlcli.cli.groups import groups, members, paths_of, read_file, read_group
from mtlcli.compression.methods import METHODS as METHODS_OF_COMPRESSION
from mtlcli.compression.methods import OPTIONS as OPTIONS_OF_COMPRESSION
from mtlcli.config import METHODS, Config, Stage, task_types
from mtlcli.config.formats import TASK_FILES
from mtlcli.config.section import OneOf, key_of
from mtlcli.errors import UserError
from mtlcli.merging.methods import METHODS as METHODS_OF_MERGING
from mtlcli.merging.methods import OPTIONS as OPTIONS_OF_MERGING
from mtlcli.registry import suggest

OPTIONS: dict[str, dict[str, str | list[str] | None]] = {
    "train": {
        "--cfg": ["job", "hydra", "all"],
        "--config-dir": "folder",
        "-cd": "folder",
        "--help": None,
        "--info": ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"],
        "--multirun": None,
        "-m": None,
        "--resolve": None,
    },
    "eval": {
        "--config-dir": "folder",
        "-cd": "folder",
        "--help": None,
        "--json": "file",
        "--predictions": "folder",
        "--split": ["validation", "test", "train"],
        "--task": "tasks",
        "--texts": None,
    },
    "compare": {
        "--affinity": ["surrogate", "lookahead"],
        "--baseline": "folder",
        "--config-dir": "folder",
        "-cd": "folder",
        "--equal": ["data", "compute"],
        "--groups": [],
        "--help": None,
        "--leave-one-out": None,
        "--merge": list(METHODS_OF_MERGING),
        "--seeds": [],
        "--to": "file",
    },
    "report": {
        "--baseline": "folder",
        "--config-dir": "folder",
        "-cd": "folder",
        "--help": None,
        "--together": "folder",
        "--to": "file",
    },
    "predict": {
        "--config-dir": "folder",
        "-cd": "folder",
        "--format": ["csv", "tsv", "jsonl", "txt", "parquet"],
        "--header": "text",
        "--help": None,
        "--input": "file",
        "--output": "file",
        "--partial": None,
        "--strict": None,
        "--submission": ["glue", "superglue"],
        "--task": "tasks",
        "--texts": None,
    },
    "serve": {
        "--config-dir": "folder",
        "-cd": "folder",
        "--help": None,
        "--host": ["127.0.0.1", "0.0.0.0"],
        "--max-rows": [],
        "--max-size": [],
        "--port": [],
        "--queue": [],
        "--read-timeout": [],
        "--timeout": [],
    },
    "export": {
        "--config-dir": "folder",
        "-cd": "folder",
        "--format": ["hf", "onnx", "safetensors"],
        "--help": None,
        "--int8": None,
        "--license": [],
        "--task": "task",
        "--to": "folder",
    },
    "merge": {
        "--config-dir": "folder",
        "-cd": "folder",
        "--help": None,
        "--method": list(METHODS_OF_MERGING),
        "--to": "folder",
        **{
            f"--{name}": ["auto"] if option.grid else []
            for name, option in OPTIONS_OF_MERGING.items()
        },
    },
    "compress": {
        "--config-dir": "folder",
        "-cd": "folder",
        "--help": None,
        "--method": list(METHODS_OF_COMPRESSION),
        "--to": "folder",
        **{f"--{name}": [] for name in OPTIONS_OF_COMPRESSION},
    },
    "push": {
        "--config-dir": "folder",
        "-cd": "folder",
        "--format": ["hf", "onnx", "safetensors"],
        "--help": None,
        "--int8": None,
        "--license": [],
        "--message": [],
        "--public": None,
        "--task": "task",
        "--to": [],
    },
    "new": {"--help": None, "--to": "file"},
    "check": {"--help": None, "-cd": "folder"},
    "tasks": {"--help": None, "-cd": "folder"},
    "doctor": {"--help": None, "--json": None},
    "completion": {"--help": None},
}
"""The options of every verb, with the value that each of them takes: none, one of a list of words,
a folder, a file, names of tasks, the name of one task, or a text that cannot be completed; an
empty list: any word."""

OF_RUNS = ("eval", "predict", "serve", "compress", "export", "push")
"""The verbs whose first word is a run folder."""

BASH = """\
_mtl() {
    # The line before the cursor goes over as it is: bash cuts its own COMP_WORDS at every '='.
    local IFS=$'\\n'
    COMPREPLY=($("$1" --complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null))
}
complete -o nospace -F _mtl mtl
"""
ZSH = """\
#compdef mtl
_mtl() {
    local candidate
    local -a typed
    typed=("${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}")
    for candidate in "${(@f)$("${(Q)words[1]}" --complete zsh "${(@)typed}" 2>/dev/null)}"; do
        if [[ $candidate == *' ' ]]; then
            compadd -- "${candidate% }"
        elif [[ -n $candidate ]]; then
            compadd -S '' -- "$candidate"
        fi
    done
}
compdef _mtl mtl
"""
FISH = """\
complete -c mtl -f -a '(mtl --complete fish "$(commandline -cp)" 2>/dev/null | string trim --right)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

PATHS = ("run_dir", "resume", "init.from", "data.root", "data.cache_dir")
"""The keys whose value is a folder."""


def completion_main(argv: list[str]) -> int:
    """Run `mtl completion SHELL`: print the script that makes TAB work. Raises UserError for a
    shell without such a script."""
    if not argv or argv[0] in ("-h", "--help"):
        print(
            "usage: mtl completion bash|zsh|fish\n\nPrint a script that completes mtl's command "
            "line. To load it at every start, add\n"
        )
        print('  bash, in ~/.bashrc:                   eval "$(mtl completion bash)"')
        print('  zsh, in ~/.zshrc after compinit:      eval "$(mtl completion zsh)"')
        print("  fish, in ~/.config/fish/config.fish:  mtl completion fish | source")
        return 0
    if len(argv) > 1 or argv[0] not in SCRIPTS:
        raise UserError(
            f"no completion for '{' '.join(argv)}'",
            where="mtl completion",
            fix=suggest(argv[0], SCRIPTS),
        )
    print(SCRIPTS[argv[0]], end="")
    return 0


def complete_main(argv: list[str]) -> int:
    """Run the hidden `mtl --complete bash LINE BREAKS`, `mtl --complete fish LINE` or `mtl
    --complete zsh WORD... CURRENT`.

    The command prints one candidate per line; a finished candidate ends with a space. For bash, a
    candidate replaces only the text after the last unquoted character of BREAKS, because bash ends
    a word at these characters.
    """
    shell, *rest = argv
    if shell == "zsh":
        *words, current = rest
    else:
        (_, *words), current, start, quoted = _split(*rest)
    for candidate in complete(words, current):
        if shell != "bash":
            print(candidate + " " * _finished(candidate))
        elif quoted:
            print(candidate[start:])
        else:
            print(
                re.sub(r"([\s'\"\\$&;()<>|*?`])", r"\\\1", candidate[start:])
                + " " * _finished(candidate)
            )
    return 0


def complete(words: list[str], current: str) -> list[str]:
    """Return the candidates for `current`, given the words between `mtl` and it, all without
    quotes."""
    if not words:
        return _starting(current, [*VERBS, "--help", "--version"])
    verb, *before = words
    if verb not in OPTIONS:
        return []
    options, arguments, expected = OPTIONS[verb], [], None
    for word in before:
        if word.startswith("-"):
            expected = options.get(word)
        elif expected is None:
            arguments.append(word)
        elif expected != "tasks":
            expected = None
    names = _Names(before, arguments[0] if verb in OF_RUNS and arguments else None)
    if current.startswith("-"):
        return _starting(current, options)
    if isinstance(expected, list):
        return _starting(current, expected)
    if expected in ("folder", "file"):
        return _paths(current, files=expected == "file")
    if verb == "new":
        return _paths(current, files=True) if arguments else _starting(current, ["task"])
    if expected in ("tasks", "task") or (verb in ("check", "tasks") and not arguments):
        files = [] if expected in ("tasks", "task") else _task_files(current)
        return [*_starting(current, names.tasks()), *files]
    if verb == "doctor":
        return []
    if verb == "completion":
        return _starting(current, SCRIPTS)
    if expected == "text":
        return []
    if verb in ("merge", "report") or (verb in OF_RUNS and not arguments):
        return _paths(current, files=False)
    if verb in ("compress", "export", "push"):
        return []
    return _override(current, names, groups=verb in ("train", "compare", "check", "tasks"))


class _Names:
    """The names that are known from the command line so far: the user's own folder, the choices,
    the tasks."""

    def __init__(self, before: list[str], run: str | None) -> None:
        folders = [
            value for option, value in zip(before, before[1:]) if option in ("-cd", "--config-dir")
        ]
        folders += [word.partition("=")[2] for word in before if word.startswith("--config-dir=")]
        self.own = Path(folders[-1]).expanduser() if folders else None
        if self.own is not None and any(self.own.glob("*/**/*.py")):
            from mtlcli.config.own_code import import_if_trusted

            import_if_trusted(self.own)
        self.run = Path(run).expanduser() if run else None
        self.chosen = {
            key.lstrip("+"): value
            for key, equals, value in (word.partition("=") for word in before)
            if equals
        }

    def groups(self) -> list[str]:
        """Return the groups, those of the user among them."""
        return sorted(groups(self.own))

    def choices(self, group: str) -> list[str]:
        """Return the choices of a group: files, and methods of other packages."""
        others = METHODS[group].names_of_others() if group in METHODS else []
        return list(dict.fromkeys([*paths_of(group, self.own), *others]))

    def stages(self) -> list[str]:
        """Return the stages of the experiment on the command line."""
        file = paths_of("experiment", self.own).get(self.chosen.get("experiment", ""))
        return [] if file is None else list(read_file(file).section("stages"))

    def tasks(self) -> list[str]:
        """Return the tasks of the run on the command line; without a run, the tasks that `task=`
        names, with its suites resolved; without `task=`, all tasks."""
        for folder in [self.run, self.run.parent.parent] if self.run else []:
            if (folder / "config.yaml").is_file():
                return list(read_file(folder / "config.yaml").section("tasks"))
        files = read_group("task", self.own)
        # A file that is chosen by its path names its task.
        names = [
            Path(name).stem if name.endswith(TASK_FILES) else name for name in self._chosen_tasks()
        ]
        files |= {path.stem: read_file(path) for path in self._paths()}
        names = names or sorted(files)
        tasks = [
            task
            for name in names
            if name in files
            for task in (members(name, files) if files[name].suite else [name])
        ]
        return list(dict.fromkeys(tasks))

    def _chosen_tasks(self) -> list[str]:
        """Return the names and paths that `task=` chooses."""
        return re.findall(r"[^\[\],]+", self.chosen.get("task", ""))

    def _paths(self) -> list[Path]:
        """Return the task files that are chosen by their path."""
        paths = [Path(name) for name in self._chosen_tasks() if name.endswith(TASK_FILES)]
        return [path.expanduser() for path in paths if path.expanduser().is_file()]

    def task_config(self, name: str) -> list[type]:
        """Return the dataclass of the task type that a task's file names; without such a file, the
        dataclasses of all types."""
        chosen = {path.stem: path for path in self._paths()}
        file = (paths_of("task", self.own) | chosen).get(name)
        kind = read_file(file).values.get("type") if file else None
        return [config for key, config in task_types.configs.items() if kind in (None, key)]


def _override(current: str, names: _Names, *, groups: bool) -> list[str]:
    """Return candidates for `key` and for `key=value`. `groups`: whether a key can also be a folder
    of conf/."""
    if (stage := re.match(r"stages\.[^.=]+\.set\.", current)) is not None:
        inner = _override(current[stage.end() :], names, groups=True)
        return [stage[0] + candidate for candidate in inner]
    sign = current[: len(current) - len(current.lstrip("+~"))]
    key, equals, value = current[len(sign) :].partition("=")
    parents, dot, last = key.rpartition(".")
    fields = _fields(parents.split(".") if dot else [], names)
    if not equals:
        candidates = [f"{group}=" for group in names.groups()] if groups and not dot else []
        # Behind `set` of a stage stands a key of its runs.
        of_stage = parents.startswith("stages.")
        candidates += [
            f"{parents}{dot}{name}"
            + ("." if _is_section(hint) or (of_stage and name == "set") else "=")
            for name, hint in fields.items()
        ]
        return [sign + candidate for candidate in _starting(key, candidates)]
    if key in PATHS:
        words = ["auto"] if key == "resume" else []
        candidates = [*_starting(value, words), *_paths(value, files=False)]
    elif groups and key in names.groups():
        files = _task_files(value) if key == "task" else []
        candidates = _one_or_list(value, [*names.choices(key), *files])
    else:
        candidates = _one_or_list(value, _values(fields.get(last)))
    return [f"{sign}{key}={candidate}" for candidate in candidates]


def _fields(path: list[str], names: _Names) -> dict[str, Any]:
    """Return the keys below `path`, each with the type of its value; empty when there is no such
    section."""
    level = get_type_hints(Config, include_extras=True)
    for depth, part in enumerate(path):
        if depth == 0 and part == "stages":
            level = dict.fromkeys(names.stages(), Stage)
            continue
        if depth == 0 and part == "tasks":
            level = {name: Union[tuple(names.task_config(name))] for name in names.tasks()}
            continue
        configs = _dataclasses(level.get(part))
        chosen = [
            config
            for config in configs
            if depth == 0 and getattr(config, "name", None) == names.chosen.get(part)
        ]
        level = {}
        for config in chosen or configs:
            types = get_type_hints(config)
            for name, hint in ((key_of(each.name), types[each.name]) for each in fields(config)):
                level[name] = Union[level[name], hint] if name in level else hint
    return level


def _dataclasses(hint: Any) -> list[type]:
    """Return the config dataclasses in a type. Only the methods of the type are imported."""
    if isinstance(hint, type) and is_dataclass(hint):
        return [hint]
    parts = get_args(hint)
    for mark in parts:
        if isinstance(mark, OneOf):
            return list(mark.registry.configs.values())
    return [config for part in parts for config in _dataclasses(part)]


def _is_section(hint: Any) -> bool:
    """Return whether a type has keys of its own. It imports no methods, as `_dataclasses` does."""
    return (isinstance(hint, type) and is_dataclass(hint)) or any(map(_is_section, get_args(hint)))


def _values(hint: Any) -> list[str]:
    """Return the values of a type that has few of them."""
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    if hint is bool:
        return ["true", "false"]
    if get_origin(hint) is list:
        return _values(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        values = [value for part in get_args(hint) for value in _values(part)]
        return [*values, "null"] if values and type(None) in get_args(hint) else values
    return []


def _one_or_list(value: str, choices: Iterable[str]) -> list[str]:
    """Return the completions of `value` to one choice, to a list `[a,b]`, or to a sweep `a,b`."""
    head, last = re.fullmatch(r"(.*[\[,])?([^\[,]*)", value).groups(default="")  # type: ignore[union-attr]  # matches every value
    left = [choice for choice in _starting(last, choices) if choice not in re.split(r"[\[,]", head)]
    if not head.startswith("["):
        return [head + choice for choice in left]
    return [
        head + choice + end
        for choice in left
        for end in (
            ["]", ","] if (choice == last or len(left) == 1) and not choice.endswith("/") else [""]
        )
    ]


def _paths(current: str, *, files: bool) -> list[str]:
    """Return the folders, and the files if `files`, that start with `current`; hidden ones only
    when the user has typed their dot."""
    parent, slash, last = current.rpartition("/")
    folder = Path(parent + slash).expanduser()
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    shown = [
        path
        for path in inside
        if path.name.startswith(last) and (last or not path.name.startswith("."))
    ]
    return [
        parent + slash + path.name + "/" * path.is_dir() for path in shown if files or path.is_dir()
    ]


def _task_files(value: str) -> list[str]:
    """Return the task files, and the folders, that complete the last name in `value`. Folders are
    proposed once something is typed."""
    last = re.split(r"[\[,]", value)[-1]
    return [
        path
        for path in _paths(last, files=True)
        if path.endswith(TASK_FILES) or (path.endswith("/") and last)
    ]


def _starting(current: str, candidates: Iterable[str]) -> list[str]:
    return [candidate for candidate in candidates if candidate.startswith(current)]


def _finished(candidate: str) -> bool:
    """Return whether nothing more can follow in this word, so that a space can follow."""
    return not candidate.endswith(("=", ".", "/", ",")) and (
        "[" not in candidate or candidate.endswith("]")
    )


def _split(line: str, breaks: str = "") -> tuple[list[str], str, int, bool]:
    """Return the words of a shell line up to the cursor without their quotes, and the last,
    unfinished word.

    Also return the position in the last word at which bash lets a completion begin (after an open
    quote or an unquoted character of `breaks`), and whether a quote is open.
    """
    words: list[str] = []
    word, start, quote = "", 0, ""
    characters = iter(line)
    for character in characters:
        if character == quote:
            quote = ""
        elif character == "\\" and quote != "'":
            word += next(characters, "")
        elif quote:
            word += character
        elif character in "'\"":
            quote, start = character, len(word)
        elif not character.isspace():
            word += character
            start = len(word) if character in breaks else start
        elif word:
            words.append(word)
            word, start = "", 0
    return words, word, start, bool(quote)
