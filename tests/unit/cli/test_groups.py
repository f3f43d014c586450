"""The reader of the files in configuration groups."""

from __future__ import annotations

from pathlib import Path

from mtlcli.cli.groups import groups, members, read_group


def test_suites_in_suites_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "one.yaml").write_text("# @package tasks.one\n# One.\ntype: span\n")
    (folder / "outer.yaml").write_text("# @package _global_\ndefaults: [one, inner, cola, _self_]")
    # A suite that names the suite that it is in ends all the same.
    (folder / "inner.yaml").write_text("# @package _global_\ndefaults: [rte, one, outer]")
    (folder / "broken.yaml").write_text("type: [\n")
    (folder / "latin.yaml").write_bytes(b"# \xe4\n")
    files = read_group("task", tmp_path)
    assert members("outer", files) == ["one", "rte", "cola"]
    assert members("inner", files) == ["rte", "one", "cola"]
    assert (files["one"].about, files["one"].values) == ("One.", {"type": "span"})
    assert [name for name, file in files.items() if file.problem] == ["broken", "latin"]


def test_groups_are_those_of_conf_and_the_users(tmp_path: Path) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "task").mkdir()
    assert groups(tmp_path) == [*groups(), "extra"]
    assert groups(tmp_path / "none") == groups()
