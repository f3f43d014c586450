"""Write what follows from the dataclasses of the configuration, so that an option is typed once.

    python scripts/generate.py            write the files below
    python scripts/generate.py --check    only name those that differ; the exit code is then 1

- `conf/sharing`, `weighting`, `sampling`, `augmentation` and `optim`: a file for each method, with
  its defaults.
- `conf/model`, `data`, `runner`, `logger` and `sweep`: the files keep their values and first
  line; keys that they lack get their defaults.
- `README.md` and `docs/data.md`: the names of the choices, and the catalogue of tasks.
- `docs/install.md`: the table of extras.
- `docs/combinations.md`: what goes with what, asked of the checks of a run.
- `docs/reference/`: every method, option and verb, and the Python interface (reference.py).

Comments are the docstrings of the classes and fields. `make conf` runs this script.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import reference
from omegaconf import OmegaConf

from mtlcli.cli import combinations
from mtlcli.cli.groups import GroupFile, members, read_group
from mtlcli.config import (
    METHODS,
    Data,
    Logger,
    Model,
    Runner,
    Sweep,
    task_types,
)
from mtlcli.config.schema import TRUTHS, docs
from mtlcli.config.section import defaults, hints
from mtlcli.extras import ABOUT, requirements
from mtlcli.registry import Registry

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 100
SETTINGS: dict[str, type] = {
    "model": Model,
    "data": Data,
    "runner": Runner,
    "logger": Logger,
    "sweep": Sweep,
}


def generated() -> dict[Path, str]:
    """Every generated file and the text that it should have."""
    files = {}
    for group, registry in METHODS.items():
        for name, config in own(registry).items():
            values = {key: defaults(config)[key] for key in reference.keys(config)}
            path = ROOT / "conf" / group / f"{name}.yaml"
            files[path] = conf_text(config, registry.about(name), values)
    for group, section in SETTINGS.items():
        for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
            given: Any = OmegaConf.to_container(OmegaConf.load(path))
            values = defaults(section) | given
            first = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            files[path] = conf_text(section, first, values)
    readme = ROOT / "README.md"
    files[readme] = with_choices(readme.read_text(encoding="utf-8"))
    configs = {group: own(registry) for group, registry in METHODS.items()}
    for name, text in reference.pages(configs | {"tasks": own(task_types)}).items():
        files[ROOT / "docs" / "reference" / f"{name}.md"] = text
    data = ROOT / "docs" / "data.md"
    text = data.read_text(encoding="utf-8")
    for name, lines in {"tasks": task_table(), "suites": suite_table()}.items():
        text = with_table(text, "docs/data.md", name, lines)
    files[data] = text
    install = ROOT / "docs" / "install.md"
    text = install.read_text(encoding="utf-8")
    files[install] = with_table(text, "docs/install.md", "extras", extras_table())
    page = ROOT / "docs" / "combinations.md"
    text = page.read_text(encoding="utf-8")
    for name, table in combinations.tables().items():
        text = with_table(text, "docs/combinations.md", name, table)
    files[page] = text
    return files


def own(registry: Registry) -> dict[str, Any]:
    """The configs of a registry without those of other packages."""
    others = registry.names_of_others()
    return {name: each for name, each in registry.configs.items() if name not in others}


# ------------------------------------------------------------------------------------------------
# conf/


def conf_text(section: type, first: str, values: dict[str, Any]) -> str:
    """The YAML of a config: every key below its docstring, with its value and the words that it can
    hold."""
    texts, types = docs(section), hints(section)
    lines = [f"# {first}"]
    for key, value in values.items():
        if key == "name" and section not in SETTINGS.values():
            lines.append(f"name: {value}")
            continue
        lines += ["", *textwrap.wrap(texts[key], WIDTH, **COMMENT)]
        words = choices(types[key])
        lines.append(f"{key}: {written(value)}" + (f"  # {' | '.join(words)}" if words[1:] else ""))
    return "\n".join(lines) + "\n"


COMMENT: dict[str, Any] = {
    "initial_indent": "# ",
    "subsequent_indent": "# ",
    "break_long_words": False,
    "break_on_hyphens": False,
}


def choices(hint: Any) -> list[str]:
    """The words that a value can be; numbers and null are left out."""
    if get_origin(hint) is Literal:
        return [str(word) for word in get_args(hint)]
    words = [word for part in get_args(hint) for word in choices(part)]
    return words if get_origin(hint) in (Annotated, Union, UnionType) else []


def written(value: Any) -> str:
    """A value as YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return re.sub(r"e([+-])0", r"e\1", repr(value))
    if isinstance(value, dict) and not value:
        return "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    return f'"{value}"' if value in TRUTHS else str(value)


# ------------------------------------------------------------------------------------------------
# README.md and docs/


def with_choices(text: str) -> str:
    """The README with the names of all methods in its table of groups."""
    for group, registry in METHODS.items():
        names = f"`{' '.join(sorted(own(registry)))}`"
        text, count = re.subn(
            rf"^(\| `{group}` \| )[^|]*( \|)", rf"\g<1>{names}\g<2>", text, flags=re.MULTILINE
        )
        assert count == 1, f"README.md has no row for the group {group}"
    files = read_group("task")
    tasks = " ".join(name for name, file in files.items() if not file.suite)
    suites = " ".join(name for name, file in files.items() if file.suite)
    choices = f"`{tasks}`, suites `{suites}`, a path of your own, or a list"
    text, count = re.subn(
        r"^(\| `task` \| )[^|]*( \|)", rf"\g<1>{choices}\g<2>", text, flags=re.MULTILINE
    )
    assert count == 1, "README.md has no row for the tasks"
    return text


def with_table(text: str, page: str, name: str, lines: Iterable[str]) -> str:
    """A page with a table between its marks."""
    begin, end = f"<!-- table: {name} (make conf) -->\n", "\n<!-- end -->"
    before, found, rest = text.partition(begin)
    assert found, f"{page} has no mark {begin}"
    return before + begin + "\n" + "\n".join(lines) + "\n" + end + rest.partition(end)[2]


def task_table() -> Iterator[str]:
    """Yield the lines of the table of tasks, by type."""
    yield "| `task=` | what it is | type | metric | on the hub |"
    yield "|---|---|---|---|---|"
    files = {name: file for name, file in read_group("task").items() if not file.suite}
    for name, file in sorted(files.items(), key=lambda item: (item[1].values["type"], item[0])):
        metric = f"`{file.values['metrics'][0]}`"
        kind = file.values["type"]
        yield f"| `{name}` | {file.about} | {kind} | {metric} | {hub_address(file)} |"


def hub_address(file: GroupFile) -> str:
    """The data set of a task on the hub, with its configuration."""
    source = file.section("source")
    parts = [str(part) for part in (source.get("hub"), source.get("hub_config")) if part]
    return f"`{' '.join(parts)}`" if parts else "-"


def suite_table() -> Iterator[str]:
    """Yield the lines of the table of suites."""
    yield "| `task=` | what it is | tasks |"
    yield "|---|---|---|"
    files = read_group("task")
    for name, file in files.items():
        if file.suite:
            yield f"| `{name}` | {file.about} | `{' '.join(members(name, files))}` |"


def extras_table() -> Iterator[str]:
    """Yield the lines of the table of extras."""
    yield "| `pip install 'mtlcli[NAME]'` | what it is for | what it installs |"
    yield "|---|---|---|"
    for name, packages in sorted(requirements()[1].items()):
        names = ", ".join(f"`{package}`" for package in packages)
        yield f"| `{name}` | {ABOUT[name]} | {names} |"


def main() -> int:
    """Write or check, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only name the files that differ")
    check = parser.parse_args().check
    differ = {
        path: text
        for path, text in generated().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
    for path, text in differ.items():
        print(path.relative_to(ROOT))
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return int(check and bool(differ))


if __name__ == "__main__":
    sys.exit(main())
