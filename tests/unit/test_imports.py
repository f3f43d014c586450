"""Which room may import which, over the real import graph; that everything public is documented;
that tests are where one looks for them."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

import mtlcli

PACKAGE = Path(mtlcli.__file__).parent
UNIT = Path(__file__).parent
HEAVY = {"torch", "transformers", "datasets", "evaluate", "sklearn"}
TOOLS = {
    "commands",
    "errors",
    "extras",
    "registry",
    "seeds",
    "disk",
    "output",
    "garbage",
    "memory",
    "screen",
    "pulse",
}
ROOMS = {
    "metrics": TOOLS,
    "config": TOOLS | {"metrics"},
    "data": TOOLS | {"config"},
    "tasks": TOOLS | {"config", "data", "metrics"},
    "sampling": TOOLS | {"config"},
    "weighting": TOOLS | {"config"},
    "models": TOOLS | {"config", "data", "tasks"},
    "sharing": TOOLS | {"config", "data", "tasks", "models"},
    "augmentation": TOOLS | {"config", "data", "tasks", "models"},
    "prepare": TOOLS | {"config", "data", "tasks", "metrics", "models"},
    "distributed": TOOLS | {"config"},
    "fast": TOOLS | {"config", "models", "sharing", "distributed"},
    "rundir": TOOLS | {"config", "models"},
    "evaluation": TOOLS
    | {"config", "data", "tasks", "metrics", "models", "prepare", "distributed", "fast", "rundir"},
}
ROOMS["trackers"] = TOOLS | {"config", "rundir"}
ROOMS["training"] = TOOLS | {*ROOMS} - {"sharing", "fast"}
ROOMS["runner"] = TOOLS | {*ROOMS}
ROOMS["merging"] = TOOLS | {*ROOMS}
ROOMS["compression"] = TOOLS | {*ROOMS}
ROOMS["grouping"] = ROOMS["training"] | {"training"}
ROOMS["report"] = TOOLS | {"config", "metrics", "data", "tasks"}
ROOMS["predict"] = ROOMS["evaluation"] | {"evaluation"}
ROOMS["serve"] = TOOLS | {"distributed", "predict"}
ROOMS["export"] = TOOLS | {"config", "data", "tasks", "models", "rundir", "evaluation"}
"""The rooms that each room may know, which all stand above it; `cli` may know all."""
LIGHT = [
    "mtlcli",
    "mtlcli.__main__",
    "mtlcli.cli",
    "mtlcli.config",
    "mtlcli.metrics",
    "mtlcli.registry",
    "mtlcli.commands",
    "mtlcli.errors",
    "mtlcli.disk",
    "mtlcli.garbage",
    "mtlcli.memory",
    "mtlcli.screen",
    "mtlcli.pulse",
    "mtlcli.report",
    "mtlcli.serve.asked",
    "mtlcli.serve.batching",
    "mtlcli.serve.limits",
    "mtlcli.merging.methods",
    "mtlcli.compression.methods",
    "mtlcli.predict.results",
    "mtlcli.predict.rows",
    "mtlcli.tasks",
    "mtlcli.rundir",
    "mtlcli.prepare.store",
    "mtlcli.prepare.checks",
    "mtlcli.augmentation",
    "mtlcli.sampling",
    "mtlcli.weighting.losses",
    "mtlcli.weighting.gradients",
]
LIGHT += [
    f"mtlcli.data.{name}" for name in ("source", "read", "sample", "encoder", "table", "features")
]
LIGHT += [f"mtlcli.data.{name}" for name in ("delimited", "long", "objects", "parquet", "unpack")]
LIGHT += ["mtlcli.data.stream"]
"""What `mtl --help`, `mtl tasks` and errors in a configuration load: these packages with everything
in them, without torch."""
MODULES_OF_TORCH = {
    "mtlcli.tasks.decoder",
    "mtlcli.tasks.drawing",
    "mtlcli.tasks.heads",
    "mtlcli.tasks.losses",
    "mtlcli.tasks.tagging.crf",
    "mtlcli.tasks.text_form.scoring",
}
"""The exceptions: heads are torch modules, and answers are scored by torch. Task types import them
when they build a head or predict."""


@dataclasses.dataclass(frozen=True)
class Import:
    """One name that a module imports."""

    module: str
    target: str
    line: int
    when: str
    """`loaded`: when the module is imported; `called`: inside a function; `checked`: only for type
    checkers."""

    @property
    def top(self) -> str:
        """The package that the name belongs to."""
        return self.target.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target} ({self.when})"


@cache
def sources() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["mtlcli", *path.relative_to(PACKAGE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, tree: ast.Module, is_package: bool) -> list[Import]:
    """All imports in a module, wherever they stand."""
    found: list[Import] = []

    def walk(node: ast.AST, when: str) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(module, alias.name, node.lineno, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module if is_package else module.rpartition(".")[0]
            base = (
                resolve_name("." * node.level + (node.module or ""), package)
                if node.level
                else str(node.module)
            )
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                found.append(
                    Import(module, submodule if submodule in sources() else base, node.lineno, when)
                )
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for child in ast.iter_child_nodes(node):
                walk(child, "called")
        elif isinstance(node, ast.If) and ast.unparse(node.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        ):
            for child in node.body:
                walk(child, "checked")
            for child in node.orelse:
                walk(child, when)
        else:
            for child in ast.iter_child_nodes(node):
                walk(child, when)

    walk(tree, "loaded")
    return found


@cache
def trees() -> dict[str, ast.Module]:
    return {
        module: ast.parse(path.read_text(encoding="utf-8")) for module, path in sources().items()
    }


@cache
def graph() -> dict[str, list[Import]]:
    """module -> what it imports. Implementations that a registry names as text count as no import:
    that is what registries are for."""
    return {
        module: imports_of(module, tree, sources()[module].name == "__init__.py")
        for module, tree in trees().items()
    }


def everything() -> list[Import]:
    return [item for items in graph().values() for item in items]


def room(module: str) -> str:
    """The room that a module is in; empty for the package itself."""
    return module.split(".")[1] if module.startswith("mtlcli.") else ""


def below(names: list[str]) -> list[str]:
    """The modules with these names and those inside them."""
    return [
        module
        for module in sources()
        if any(
            module == name or (name != "mtlcli" and module.startswith(name + ".")) for name in names
        )
    ]


def light() -> list[str]:
    """The modules that must load without torch: those of LIGHT, and the configurations of sharing
    strategies."""
    strategies = {
        module
        for module, path in sources().items()
        if module.startswith("mtlcli.sharing") and path.name == "__init__.py"
    }
    return sorted(({*below(LIGHT)} | strategies) - MODULES_OF_TORCH)


def loads(module: str) -> dict[str, Import]:
    """Everything outside the package that importing `module` imports in turn, with one import that
    does it."""
    outside: dict[str, Import] = {}
    open_modules, seen = [module], set()
    while open_modules:
        name = open_modules.pop()
        if name in seen or name not in graph():
            continue
        seen.add(name)
        # Importing a.b.c runs a and a.b as well.
        open_modules += [name.rpartition(".")[0]] if "." in name else []
        for item in graph()[name]:
            if item.when == "loaded":
                open_modules.append(item.target)
                outside.setdefault(item.top, item)
    return outside


def test_the_graph_is_seen() -> None:
    """The tests below would pass on an empty graph."""
    assert {module for module in sources() if "." in module} >= {
        "mtlcli.config.run",
        "mtlcli.tasks.base",
        "mtlcli.training.step",
    }
    tree = ast.parse(
        "import torch\nfrom . import base\nfrom .base import x\ndef f():\n    import "
        "hydra.core\nif TYPE_CHECKING:\n    import rich"
    )
    found = [(item.target, item.when) for item in imports_of("mtlcli.tasks.span", tree, False)]
    assert found == [
        ("torch", "loaded"),
        ("mtlcli.tasks.base", "loaded"),
        ("mtlcli.tasks.base", "loaded"),
        ("hydra.core", "called"),
        ("rich", "checked"),
    ]
    assert "torch" in loads("mtlcli.training.step")


def test_every_room_is_known() -> None:
    assert {room(module) for module, path in sources().items() if path.name == "__init__.py"} - {
        ""
    } == {*ROOMS, "cli"}


def test_no_room_knows_one_below() -> None:
    """The order in which ROOMS names the rooms has no arrow upwards, so there is no circle of
    rooms."""
    for place, (name, known) in enumerate(ROOMS.items()):
        assert known - TOOLS <= set([*ROOMS][:place]), name


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_knows_only_the_rooms_it_may(name: str) -> None:
    known = {"", name, *ROOMS[name]}
    assert [
        str(item)
        for item in everything()
        if room(item.module) == name and room(item.target) not in known
    ] == []


def test_weighting_sampling_and_sharing_are_strangers() -> None:
    for name in ("weighting", "sampling", "sharing"):
        assert not ROOMS[name] & {
            "weighting",
            "sampling",
            "sharing",
            "training",
            "runner",
            "evaluation",
        }


def test_only_the_command_line_knows_hydra() -> None:
    assert [
        str(item) for item in everything() if item.top == "hydra" and room(item.module) != "cli"
    ] == []


def test_nothing_imports_scripts_or_tests() -> None:
    assert [str(item) for item in everything() if item.top in ("scripts", "tests")] == []


def test_report_never_imports_torch() -> None:
    assert [
        str(item) for item in everything() if room(item.module) == "report" and item.top in HEAVY
    ] == []


@pytest.mark.parametrize("module", light())
def test_light_modules_load_nothing_heavy(module: str) -> None:
    outside = loads(module)
    assert [str(outside[name]) for name in sorted(HEAVY & set(outside))] == []


def test_light_modules_really_load_without_torch() -> None:
    """The same as above by importing them, so that also a light-looking dependency that loads torch
    is seen."""
    names = light()
    code = (
        f"import sys\nfor name in {names!r}: __import__(name)\nprint(sorted({HEAVY!r} & "
        "set(sys.modules)))"
    )
    # mtlcli.__main__ is a script, but importing it runs nothing.
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_no_import_circle() -> None:
    """Modules that load one another in a circle work or fail depending on which comes first."""
    loaded = {
        module: {item.target for item in items if item.when == "loaded"} & set(graph())
        for module, items in graph().items()
    }
    while True:
        leaves = {module for module, targets in loaded.items() if not targets - {module}}
        if not leaves:
            break
        loaded = {
            module: targets - leaves for module, targets in loaded.items() if module not in leaves
        }
    assert loaded == {}


# ------------------------------------------------------------------------------------------------
# docstrings


@cache
def classes() -> dict[str, ast.ClassDef]:
    """Every class of the package by its bare name."""
    return {
        node.name: node
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def inherits_docstring(owner: ast.ClassDef, method: str) -> bool:
    """Whether a base class within the package says what the method does."""
    for base in owner.bases:
        parent = classes().get(ast.unparse(base).partition("[")[0].rpartition(".")[2])
        if parent is not None:
            own = [
                node
                for node in parent.body
                if isinstance(node, ast.FunctionDef) and node.name == method
            ]
            if any(ast.get_docstring(node) for node in own) or inherits_docstring(parent, method):
                return True
    return False


def undocumented(body: list[ast.stmt], prefix: str, owner: ast.ClassDef | None = None) -> list[str]:
    """Functions, classes and methods without a leading underscore that nothing is said about."""
    missing = []
    for node in body:
        named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, named) and not node.name.startswith("_"):
            if not ast.get_docstring(node) and not (owner and inherits_docstring(owner, node.name)):
                missing.append(f"{prefix}.{node.name}")
            if isinstance(node, ast.ClassDef):
                missing += undocumented(node.body, f"{prefix}.{node.name}", node)
    return missing


@pytest.mark.parametrize("module", sources())
def test_public_names_have_docstrings(module: str) -> None:
    tree = trees()[module]
    missing = undocumented(tree.body, module)
    if tree.body and not ast.get_docstring(tree):
        missing.insert(0, f"{module} (the module)")
    assert missing == []


def test_a_missing_docstring_is_seen() -> None:
    tree = ast.parse(
        "class Task(TaskType):\n    def encode(self): ...\n    def other(self): ...\ndef f(): "
        "...\ndef _g(): ..."
    )
    assert undocumented(tree.body, "m") == ["m.Task", "m.Task.other", "m.f"]


@pytest.mark.parametrize("module", sources())
def test_every_field_of_the_configuration_is_explained(module: str) -> None:
    missing = []
    for node in ast.walk(trees()[module]):
        if isinstance(node, ast.ClassDef) and any(
            ast.unparse(decorator) == "section" for decorator in node.decorator_list
        ):
            for field, after in zip(node.body, [*node.body[1:], None]):
                explained = (
                    isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                    and isinstance(after.value.value, str)
                )
                if isinstance(field, ast.AnnAssign) and not explained:
                    missing.append(f"{module}.{node.name}.{ast.unparse(field.target)}")
    assert missing == []


@pytest.mark.parametrize(
    "file", sorted(str(path.relative_to(UNIT)) for path in UNIT.rglob("test_*"))
)
def test_a_test_is_named_for_what_it_tests(file: str) -> None:
    """For a module (`test_step.py`, and `test_step_together.py` for a subject of its own), for the
    room itself, or for every method in it (`test_every_...`). `test_conf.py` is about `conf/`."""
    room, name = PACKAGE / Path(file).parent, Path(file).stem.removeprefix("test_")
    modules = {path.stem for path in room.iterdir()} | {room.name}
    assert room.is_dir()
    assert (
        name.startswith("every_")
        or any(name == module or name.startswith(f"{module}_") for module in modules)
        or file in ("test_imports.py", "config/test_conf.py")
    )
