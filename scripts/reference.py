"""The pages of `docs/reference/`: every method, every option, every verb, the Python interface.

`scripts/generate.py` writes them. What they say are the docstrings of the methods, of the
configuration and of the interface, and what `mtl VERB --help` prints.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen

from mtlcli.cli import VERBS, main
from mtlcli.config import METHODS, Balancing, Config
from mtlcli.config.optim import Optim
from mtlcli.config.schema import docs
from mtlcli.config.section import defaults, hints, key_of
from mtlcli.config.task import Task

PACKAGE = Path(__file__).resolve().parents[1] / "mtlcli"
WIDTH = 100
MARK = "<!-- `make conf` writes this page from docstrings. -->\n"
TITLES = {
    "sharing": ("Sharing strategies", "which parameters the tasks have in common"),
    "weighting": ("Weightings", "how the tasks' losses, or their gradients, become one update"),
    "sampling": ("Sampling policies", "which tasks a step holds"),
    "augmentation": ("Augmentations", "what training does with batches beside taking their loss"),
}
MEASURED = {
    "sharing": "On four GLUE tasks with MiniLM and a small budget no strategy was clearly better "
    "than a model for each task ([figures](../../scripts/bench/sharing.md)).",
    "weighting": "On four GLUE tasks with MiniLM no weighting was better than equal weights "
    "([figures](../../scripts/bench/weightings.md)).",
}
INTERFACE = (
    ("__init__.py", ("load", "train", "Trained")),
    ("predict/predictor.py", ("Predictor",)),
    ("predict/results.py", None),
    ("errors.py", ("MtlError", "UserError", "NotFinite")),
)
"""Files of the Python interface, and the names in them; None: all."""
METHODS_SHOWN = {"Predictor": ("predict", "encode"), "Trained": ("load",)}


def pages(own: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the text of every page by its name. `own`: for each group the configs of its methods,
    without those of other packages."""
    lines = {group: method_page(group, own[group]) for group in TITLES}
    lines |= {"options": option_page(own), "cli": command_page(), "python": interface_page()}
    return {name: "\n".join(each) + "\n" for name, each in lines.items()}


# ------------------------------------------------------------------------------------------------
# methods


def method_page(group: str, configs: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the page of a group: a table of its methods, and each method."""
    title, about = TITLES[group]
    yield f"# {title}\n\n{MARK}"
    yield from paragraph(
        f"`{group}=NAME` says {about}. Below are the paper, the formula and every difference from "
        f"them, and when each may help. That is what the papers say unless figures are named. "
        f"{MEASURED.get(group, '')} What all have in common is in the guide: "
        f"[{group}](../methods.md#{group})."
    )
    kinds = {"": list(configs)}
    if group == "weighting":
        kinds = {
            "Weights on losses": [name for name in configs if not configs[name].on_gradients],
            "Weights on gradients": [name for name in configs if configs[name].on_gradients],
        }
    for heading, names in kinds.items():
        if heading:
            yield f"## {heading}\n"
        yield f"| `{group}=` | what it does |"
        yield "|---|---|"
        for name in sorted(names):
            yield f"| [`{name}`](#{name}) | {METHODS[group].about(name)} |"
        yield ""
        if heading == "Weights on gradients":
            yield from paragraph(
                "All of these also have the keys below, and need the gradient of each task: "
                "[what balancing costs](../methods.md#what-balancing-costs)."
            )
            yield from key_table(group, Balancing, [field.name for field in fields(Balancing)])
    common = {field.name for field in fields(Balancing)}
    for name, config in sorted(configs.items()):
        yield f"## {name}\n"
        yield from method(config)
        shared = common if issubclass(config, Balancing) else {"name"}
        yield from key_table(group, config, [key for key in keys(config) if key not in shared])


def method(config: type) -> Iterator[str]:
    """Yield the lines that explain a method: its module's docstring, which has the paper and the
    formula, and the rest of its config's."""
    first, *rest = inspect.cleandoc(config.__doc__ or "").split("\n\n")
    file = Path(inspect.getfile(config))
    trunk = file.parent / "trunk.py"
    if file.name == "__init__.py" and trunk.is_file():
        file = trunk
    text = first
    if file.parent.name != "config":
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or first
    yield from markdown(text)
    labels = ("When it helps:", "Cost:")
    assert [part.startswith(label) for part, label in zip(rest, labels)] == [True, True], config
    for part in rest:
        label, _, words = " ".join(part.split()).partition(":")
        yield from paragraph(f"**{label}:**{words}")


def markdown(text: str) -> Iterator[str]:
    """Yield a docstring as lines of Markdown: formulas as code, lists with the space that they
    need."""
    in_list = False
    for part in text.split("\n\n"):
        lines = part.split("\n")
        code = 6 if in_list else 4
        if all(line.startswith(" " * code) for line in lines):
            yield (
                textwrap.indent(part, "  ") if in_list else f"```text\n{textwrap.dedent(part)}\n```"
            )
            yield ""
            continue
        pieces: list[list[str]] = [[]]
        for before, line in zip(["", *lines], lines):
            # A line may also begin with the minus of a formula.
            opens = not before or before.endswith(":") or pieces[-1][0].startswith("- ")
            if line.startswith("- ") and opens:
                pieces.append([])
            pieces[-1].append(line)
        for piece in filter(None, pieces):
            joined = " ".join(line.strip() for line in piece)
            item = piece[0].startswith("- ")
            in_list = item or (in_list and piece[0].startswith("  "))
            more = "    " if in_list else ""
            yield from paragraph(joined, "" if item else more, "  " if item else more)


def paragraph(text: str, begin: str = "", indent: str = "") -> Iterator[str]:
    """Yield a paragraph, or an item of a list, as lines and an empty one."""
    text = re.sub(r"(?<![(\[/])scripts/bench/\w+\.md", r"[\g<0>](../../\g<0>)", text)
    # No line may begin with a sign that would make it an item of a list or a quotation.
    kept = re.sub(r"(?<!^) (?=[-+*>] )", "\0", escaped(text))
    yield textwrap.fill(
        kept,
        WIDTH,
        initial_indent=begin,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ).replace("\0", " ")
    yield ""


def escaped(text: str) -> str:
    """Return text in which `<word>` outside of code is no HTML."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"<(?=[a-zA-Z/])", "&lt;", part) for part in parts
    )


# ------------------------------------------------------------------------------------------------
# options


def option_page(own: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the page of options: every key of every section."""
    yield f"# Every option\n\n{MARK}"
    yield from paragraph(
        "Each key is set with `KEY=VALUE` on the command line, or in a YAML file. `mtl train --cfg "
        "job` prints all values of a run. A wrong value is refused before anything starts."
    )
    top = [key for key, hint in hints(Config).items() if not sections(hint)]
    yield "## The run\n"
    yield from key_table("", Config, top)
    yield "## tasks\n"
    yield from paragraph(
        "The keys of every task, in its file or as `tasks.NAME.KEY`. `task=` chooses the tasks "
        "([catalogue](../data.md#the-catalogue), [own tasks](../data.md#own-tasks))."
    )
    yield from nested("tasks.NAME", Task, keys(Task))
    for name, config in sorted(own["tasks"].items()):
        yield f"### type: {name}\n"
        yield from paragraph(" ".join((config.__doc__ or "").partition("\n\n")[0].split()))
        yield from nested(
            "tasks.NAME", config, [key for key in keys(config) if key not in keys(Task)]
        )
    for key, hint in hints(Config).items():
        found = sections(hint)
        if key in ("tasks", *METHODS) or not found:
            continue
        yield f"## {key}\n"
        prefix = f"{key}.NAME" if get_origin(hint) is dict else key
        yield from nested(prefix, found[0], keys(found[0]))
    yield "## optim\n"
    yield from key_table("optim", Optim, [key for key in keys(Optim) if key != "name"])
    for name, config in sorted(own["optim"].items()):
        yield f"### optim: {name}\n"
        yield from paragraph(METHODS["optim"].about(name) + ".")
        yield from key_table("optim", config, [k for k in keys(config) if k not in keys(Optim)])
    yield "## Methods\n"
    yield from paragraph("The keys of a method stand beside its description.")
    for group, (title, _) in TITLES.items():
        yield f"- [`{group}`]({group}.md): {title.lower()}"


def nested(prefix: str, section: type, names: list[str]) -> Iterator[str]:
    """Yield the table of a section, and those of the sections in it."""
    yield from key_table(prefix, section, names)
    for key in names:
        for inner in sections(hints(section)[key]):
            yield f"`{prefix}.{key}`:\n"
            yield from nested(f"{prefix}.{key}", inner, keys(inner))


def key_table(prefix: str, section: type, names: Iterable[str]) -> Iterator[str]:
    """Yield the table of some keys of a section: values, default and docstring; nothing where there
    are no keys."""
    texts, types, values = docs(section), hints(section), defaults(section)
    # The name of a method, and the type of a task, are what the section is found by.
    found_by = [
        key for key in ("name", "type") if key in types and type(None) not in get_args(types[key])
    ]
    names = [name for name in names if name not in found_by]
    if not names:
        return
    yield "| key | values | default | what it is |"
    yield "|---|---|---|---|"
    for name in names:
        dotted = f"{prefix}.{name}" if prefix else name
        cells = [f"`{dotted}`", kind(types[name]), default(values[name]), escaped(texts[name])]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def keys(section: type) -> list[str]:
    """Return the keys of a config, its own before those of its base classes."""
    names = {field.name for field in fields(section)}
    declared = [key for cls in section.__mro__ for key in vars(cls).get("__annotations__", {})]
    return [key_of(key) for key in dict.fromkeys(declared) if key in names]


def sections(hint: Any) -> list[type]:
    """Return the config dataclasses in the type of a field, in lists too."""
    if is_dataclass(hint):
        return [hint] if isinstance(hint, type) else []
    if get_origin(hint) is Annotated:
        return sections(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType, list, dict):
        return [found for part in get_args(hint) for found in sections(part)]
    return []


def kind(hint: Any) -> str:
    """Return what a value can be, in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = filter(None, map(bound, parts[1:]))
        return " ".join([kind(parts[0]), ", ".join(bounds)]).strip()
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in parts)
    if origin in (Union, UnionType):
        return " or ".join(kind(part) for part in parts)
    if origin is list:
        return f"list of {kind(parts[0])}".replace("number", "numbers").replace("text", "texts")
    if origin is dict:
        return f"{kind(parts[0])}: {kind(parts[1])}"
    if is_dataclass(hint):
        return "keys of its own"
    names = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}
    return names.get(hint, "`null`" if hint is NoneType else "any value")


def bound(mark: Any) -> str:
    """Return a bound of a value, as it is written behind its type."""
    for cls, name, sign in ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<")):
        if isinstance(mark, cls):
            value = getattr(mark, name)
            # The largest seed is 2^128 - 1.
            large = isinstance(value, int) and value > 2**64
            return f"< 2^{value.bit_length()}" if large else f"{sign} {value:,}"
    return f"(at least {mark.min_length})" if isinstance(mark, MinLen) else ""


def default(value: Any) -> str:
    """Return a default as it would be typed; a dash for a value that has to be given."""
    if value == "???" or is_dataclass(value):
        return "-"
    if value is None or isinstance(value, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[value] }`".replace(" ", "")
    if isinstance(value, float):
        return "`" + re.sub(r"e([+-])0", r"e\1", repr(value)) + "`"
    if isinstance(value, list):
        return f"`[{','.join(map(str, value))}]`"
    return f"`{value}`"


# ------------------------------------------------------------------------------------------------
# the command line and Python


def command_page() -> Iterator[str]:
    """Yield the lines of the page of verbs: what each prints as its help."""
    yield f"# Every verb\n\n{MARK}"
    yield "| verb | what it does |\n|---|---|"
    for verb, about in VERBS.items():
        yield f"| [`mtl {verb}`](#mtl-{verb}) | {about} |"
    for verb in VERBS:
        written = io.StringIO()
        with redirect_stdout(written):
            assert main([verb, "--help"]) == 0
        yield f"\n## mtl {verb}\n\n```text"
        for line in written.getvalue().strip().split("\n"):
            yield (
                "\n".join(textwrap.wrap(line, WIDTH, subsequent_indent="  ") or [""])
                if len(line) > WIDTH
                else line
            )
        yield "```"


def interface_page() -> Iterator[str]:
    """Yield the lines of the page of the Python interface."""
    yield f"# The Python interface\n\n{MARK}"
    yield from paragraph(
        "`import mtlcli` loads nothing heavy. A session to follow is in "
        "[examples/python](../../examples/python/README.md)."
    )
    for file, names in INTERFACE:
        module = "mtlcli." + file.removesuffix(".py").replace("/", ".")
        yield f"## {module.removesuffix('.__init__')}\n"
        for node in ast.parse((PACKAGE / file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (
                node.name in names if names else isinstance(node, ast.ClassDef)
            ):
                yield f"### {node.name}\n"
                yield from described(node)


def described(node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    """Yield the signature and docstring of a function, or those of a class with its fields and its
    methods for users."""
    if isinstance(node, ast.FunctionDef):
        yield f"```python\n{signature(node)}\n```\n"
    yield from markdown(ast.get_docstring(node) or "")
    if isinstance(node, ast.FunctionDef):
        return
    for field, text in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(text.value, ast.Constant)
            about = " ".join(str(text.value.value).split())
            optional = ast.unparse(field.annotation).replace("NotRequired[", "optional [")
            yield next(
                paragraph(f"- `{ast.unparse(field.target)}` (`{optional}`): {about}", "", "  ")
            )
    for method_node in node.body:
        if (
            isinstance(method_node, ast.FunctionDef)
            and method_node.name in METHODS_SHOWN.get(node.name, ())
            and not any(ast.unparse(each) == "overload" for each in method_node.decorator_list)
        ):
            yield f"#### {node.name}.{method_node.name}\n"
            yield from described(method_node)


def signature(node: ast.FunctionDef) -> str:
    """Return the signature of a function, an argument a line where it is long."""
    arguments = [each for each in node.args.args if each.arg != "self"]
    optional = len(node.args.defaults)
    words = []
    for place, each in enumerate(arguments):
        left = len(arguments) - place
        value = f" = {ast.unparse(node.args.defaults[-left])}" if left <= optional else ""
        words.append(ast.unparse(each) + value)
    if node.args.kwonlyargs:
        words.append("*")
    for each, given in zip(node.args.kwonlyargs, node.args.kw_defaults):
        words.append(ast.unparse(each) + (f" = {ast.unparse(given)}" if given else ""))
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({', '.join(words)}){returns}"
    if len(line) <= WIDTH - 10:
        return line
    return f"{node.name}(\n" + "".join(f"    {word},\n" for word in words) + f"){returns}"
