"""What is installed is complete: the wheel runs from any folder, and a source archive builds the
same wheel."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import mtlcli

ROOT = Path(mtlcli.__file__).parents[1]
SOURCES = [
    *("mtlcli", "conf", "examples", "setup.cfg", "pyproject.toml", "MANIFEST.in"),
    *("README.md", "LICENSE"),
]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command in a folder without the checkout on its path; its output, or a failure that
    shows it."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_sources(to: Path) -> Path:
    """A copy of what is packaged: a build leaves files in its tree."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            to.mkdir(exist_ok=True)
            shutil.copy(source, to / name)
    return to


def fresh_environment(folder: Path) -> Path:
    """The folder of programs of a new environment, which borrows the packages of this one but not
    `mtlcli`."""
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    programs = folder / "venv" / "bin"
    packages = Path(
        run(
            programs / "python",
            "-c",
            "import sysconfig; print(sysconfig.get_path('purelib'))",
            cwd=folder,
        ).strip()
    )
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def pip_install(programs: Path, *arguments: str | Path) -> None:
    """Install into an environment with this one's pip, without downloading anything."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        programs / "python",
        "install",
        "--no-deps",
        "--no-index",
    ]
    run(*pip, *arguments, cwd=programs)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source archive and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("build")
    run(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        folder / "dist",
        cwd=copy_sources(folder / "copy"),
    )
    return folder / "dist"


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    programs = fresh_environment(folder)
    pip_install(programs, *built.glob("*.whl"))
    return programs


def test_every_package_is_listed() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["packages"].split()
    there = [
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "mtlcli").rglob("__init__.py")
    ]
    assert listed == sorted([*there, "mtlcli.conf"])
    assert [
        path
        for path in (ROOT / "mtlcli").rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    ] == []


def test_the_wheel_holds_every_file(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path for ending in ("py", "html") for path in (ROOT / "mtlcli").rglob(f"*.{ending}")]
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    expected |= {
        "mtlcli/" + path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")
    }
    assert inside == expected


def test_the_source_archive_holds_conf_and_examples(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")} <= inside
    examples = [path for path in (ROOT / "examples").rglob("*") if "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in examples} <= inside
    assert {"LICENSE", "README.md", "setup.cfg", "pyproject.toml"} <= inside


def test_the_installed_command_works_from_another_folder(environment: Path, tmp_path: Path) -> None:
    where = run(
        environment / "python",
        "-c",
        "import mtlcli.config.paths as p; print(p.conf_dir())",
        cwd=tmp_path,
    ).strip()
    assert Path(where).is_relative_to(environment.parent)
    shown = run(
        environment / "mtl", "train", "--cfg", "job", "task=rte", "data=sample", cwd=tmp_path
    )
    assert "rte:" in shown
    assert "source: sample" in shown
    assert "glue_multi" in run(environment / "mtl", "tasks", cwd=tmp_path)
    assert "model=tiny" in run(
        environment / "mtl", "--complete", "zsh", "train", "model=", cwd=tmp_path
    )
    assert list(tmp_path.iterdir()) == []


def test_an_own_configuration_folder_stands_beside_the_installed_one(
    environment: Path, tmp_path: Path
) -> None:
    own = tmp_path / "my_conf" / "task"
    own.mkdir(parents=True)
    (tmp_path / "rows.csv").write_text("text,label\ngood,1\nbad,0\n")
    (own / "mine.yaml").write_text(
        "# @package tasks.mine\ntype: classification\ncolumns: {text: text}\nsource: {files: "
        "{train: rows.csv, validation: rows.csv}}\n"
    )
    shown = run(
        environment / "mtl", "train", "-cd", "my_conf", "task=mine", "--cfg", "job", cwd=tmp_path
    )
    assert "train: rows.csv" in shown


def test_an_editable_install_follows_the_checkout(tmp_path: Path) -> None:
    checkout = copy_sources(tmp_path / "checkout")
    programs = fresh_environment(tmp_path)
    pip_install(programs, "--no-build-isolation", "--editable", checkout)
    where = run(
        programs / "python",
        "-c",
        "import mtlcli.config.paths as p; print(p.conf_dir())",
        cwd=tmp_path,
    ).strip()
    assert where == str(checkout / "conf")
    (checkout / "conf" / "task" / "fresh.yaml").write_text("# @package _global_\ndefaults: [rte]\n")
    shown = run(programs / "mtl", "train", "--cfg", "job", "task=fresh", cwd=tmp_path)
    assert "rte:" in shown
