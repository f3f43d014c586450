"""Garbage is looked for seldom while a process starts, and as often as usual while it works."""

from __future__ import annotations

import gc

import pytest

from mtlcli import __main__, cli, garbage


def test_garbage_is_collected_seldom_while_a_process_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "main", lambda: gc.get_threshold()[0])
    frozen: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    try:
        assert __main__.main() >= 10 * garbage.USUAL[0]
        frozen.clear()
        garbage.at_work()
        assert gc.get_threshold() == garbage.USUAL and frozen == [True]
        garbage.at_work()
        assert frozen == [True], "a process that did not begin as ours keeps its objects"
    finally:
        gc.set_threshold(*garbage.USUAL)
