"""What the documents say is true: commands compose, links lead somewhere, files and functions are
where they are said to be, and the help lists what there is."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import mtlcli
from mtlcli.cli import VERBS, main
from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.completion import OPTIONS
from mtlcli.cli.preflight import preflight
from mtlcli.config import METHODS, Config
from mtlcli.config.schema import leaves
from mtlcli.config.snapshot import save_config
from tests.long.test_docs_commands import PAGES as FOLLOWED

ROOT = Path(mtlcli.__file__).parents[1]
PACKAGE = ROOT / "mtlcli"
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *PAGES]
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: str) -> list[tuple[str, str]]:
    """The code blocks of a document: (language, text)."""
    return BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))


def commands(program: str) -> list[list[str]]:
    """The arguments of every command line with this program in the code blocks of all documents but
    those whose commands are run (`tests/long/test_docs_commands.py`)."""
    lines = [
        line
        for document in DOCUMENTS
        if document not in {f"docs/{page}.md" for page in FOLLOWED}
        for _, text in blocks(document)
        for line in text.replace("\\\n", " ").splitlines()
    ]
    words = [
        shlex.split(line.removeprefix("$ "), comments=True)
        for line in lines
        if line.removeprefix("$ ").startswith(program + " ")
    ]
    return [arguments for _, *arguments in words]


def test_the_readme_and_the_pages_of_methods_list_every_choice() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ([^|]*) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    listed = {
        group: {name for names in re.findall("`([^`]*)`", choices) for name in names.split()}
        for group, choices in rows
    }
    groups = {
        folder.name: {file.stem for file in folder.glob("*.yaml")}
        for folder in (ROOT / "conf").iterdir()
        if folder.is_dir()
    }
    for group, names in groups.items():
        assert listed[group] == names, group
    for group in ("sharing", "weighting", "sampling", "augmentation"):
        page = (ROOT / "docs" / "reference" / f"{group}.md").read_text(encoding="utf-8")
        assert set(re.findall(r"^\| \[`(\w+)`\]", page, re.MULTILINE)) == groups[group]
        assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == groups[group]


def test_every_key_has_a_line_on_a_page_of_the_reference() -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    found = {
        key
        for page in pages
        for key in re.findall(r"^\| `([\w.]+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = {"tasks", "tasks.NAME.type", *(f"{group}.name" for group in [*METHODS, "sweep"])}
    top = {field.name for field in fields(Config)}
    assert {key for key in leaves() if key not in top} - found == named - {"tasks"}


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    config = str(ROOT / "scripts" / "site" / "mkdocs.yml")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    built = {path.name for path in tmp_path.rglob("*.html")}
    assert built >= {f"{Path(page).stem}.html" for page in PAGES}
    for file in [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.css")]:
        text = file.read_text(encoding="utf-8")
        loaded = re.findall(r"""<(?:script|img|link)\b[^>]*?(?:src|href)=["']?(\w+:)?//""", text)
        assert not loaded and "url(http" not in text, file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the files that the README shows exist as they are shown, and the files that
    these name. The task is in `my_conf` too, with the header that a folder of task files needs."""
    shown = re.findall(
        r"`(\S+\.yaml)`[^`]*```yaml\n(.*?)^```",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert [name for name, _ in shown] == ["reviews/mine.yaml"]
    for name, text in shown:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for file in yaml.safe_load(text)["source"]["files"].values():
            (path.parent / file).touch()
            (tmp_path / file).touch()
        (tmp_path / "my_conf" / "task").mkdir(parents=True)
        (tmp_path / "my_conf" / "task" / path.name).write_text(f"# @package tasks.mine\n{text}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments", [pytest.param(arguments, id=" ".join(arguments)) for arguments in commands("mtl")]
)
def test_every_command_of_the_documents_composes(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *rest = arguments
    for word in rest:
        if word.startswith(("data.root=", "init.from=")):
            (folder / word.partition("=")[2]).mkdir(parents=True, exist_ok=True)
        if word.startswith("augmentation.teachers="):
            for run in word.partition("=")[2].strip("[]").split(","):
                (folder / run).mkdir(parents=True, exist_ok=True)
        if word.startswith("resume=") and word != "resume=auto":
            run = folder / word.partition("=")[2]
            run.mkdir(parents=True)
            save_config(preflight(read_arguments(["task=rte"])).configs[0], run / "config.yaml")
    if verb != "train":
        assert verb in VERBS
        assert [word for word in rest if word.startswith("-") and word not in OPTIONS[verb]] == []
    elif {"-m", "--multirun"} & set(rest):
        assert preflight(read_arguments(rest)).configs
    else:
        assert (
            main(
                [
                    "train",
                    *rest,
                    *([] if {"--cfg", "--help", "--info"} & set(rest) else ["--cfg", "job"]),
                ]
            )
            == 0
        ), capsys.readouterr().err


def test_every_make_target_of_the_documents_exists() -> None:
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert [arguments for arguments in commands("make") if arguments[0] not in targets] == []
    assert commands("make")[:2] == [["train"], ["test"]]


def anchors(document: Path) -> set[str]:
    """What a link to a heading of the document has behind the #."""
    return {
        re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def defined(file: Path) -> set[str]:
    """Names that a module defines: its functions, classes and constants, and `Class.method`."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, FUNCTIONS | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = (each for each in node.body if isinstance(each, FUNCTIONS))
            found |= {f"{node.name}.{member.name}" for member in members}
    return found


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", *PAGES])
def test_every_file_and_function_is_where_it_is_said_to_be(document: str) -> None:
    """`path.py` and `path.py:name`, below the repository or below the package; a path with NAME in
    it, or below my_conf, is to be made."""
    text = BLOCK.sub("", (ROOT / document).read_text(encoding="utf-8"))
    wrong = []
    for path, name in re.findall(r"`([\w./]+\.(?:py|md))(?::([\w.]+))?`", text):
        file = next((base / path for base in (ROOT, PACKAGE) if (base / path).is_file()), None)
        if "NAME" in path or path.startswith("my_conf/"):
            continue
        if file is None or (name and name not in defined(file)):
            wrong.append(f"{path}:{name}")
    assert wrong == []


def test_every_file_that_a_module_names_exists() -> None:
    """In docstrings, comments and messages; also from the module's own package."""
    wrong = []
    for folder in ("mtlcli", "scripts", "tests"):
        for module in (ROOT / folder).rglob("*.py"):
            names = re.findall(r"[\w./]*\w/\w+\.py\b", module.read_text(encoding="utf-8"))
            places = (ROOT, PACKAGE, module.parent, module.parent.parent)
            wrong += [
                f"{module.relative_to(ROOT)}: {name}"
                for name in names
                if not any((place / name).is_file() for place in places)
                and not name.startswith("my_conf/")  # a file of a user
                and module.name != "test_own_code.py"  # writes such files
            ]
    assert wrong == []


def test_the_map_of_the_code_has_a_line_for_every_room() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    for document in ("README.md", "docs/architecture.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        assert set(re.findall(r"^\| `(?:mtlcli/)?(\w+)/` \|", text, re.MULTILINE)) >= rooms


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", *PAGES])
def test_lines_outside_tables_have_at_most_100_columns(document: str) -> None:
    lines = (ROOT / document).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


def test_help_lists_the_verbs_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    there = {
        path.stem
        for path in (ROOT / "mtlcli" / "cli").glob("*.py")
        if re.search(rf"^def {path.stem}_main\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert main(["--help"]) == 0
    listed = re.findall(r"^  (\w+)  ", capsys.readouterr().out, re.MULTILINE)
    assert set(listed) == there == set(VERBS)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("verb", VERBS)
def test_completion_knows_the_options_of_every_verb(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    said = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", capsys.readouterr().out)) - {"-h", "--help"}
    offered = set(OPTIONS[verb]) - {"--help"}
    assert said <= {*offered, "-c", "-i", "--hydra-help", "--version"}
    assert offered - said <= {"--config-dir", "--resolve"}
