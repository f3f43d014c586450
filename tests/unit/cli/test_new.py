"""Task files for folders of files that are too large to be looked at as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtlcli.cli import new


def test_of_a_large_folder_the_first_files_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, labels in enumerate(("good,bad", "good,bad", "fair,bad")):
        rows = [f"a text of number {row},{labels.split(',')[row % 2]}\n" for row in range(20)]
        (shards / f"{number}.csv").write_text("text,label\n" + "".join(rows))
    text, _ = new.task_file(str(shards), tmp_path)
    assert "# 60 rows of shards (3 files)" in text and "labels: [bad, fair, good]" in text
    size = (shards / "0.csv").stat().st_size
    for most, count in ((1, 1), (size, 1), (2 * size, 2)):
        monkeypatch.setattr(new, "LOOKED_AT_SIZE", most)
        text, told = new.task_file(str(shards), tmp_path)
        assert f"# {20 * count} rows of shards (the first {count} of 3 files;" in text
        assert f"only the first {count} of 3 files were looked at" in told
        # Labels that only the last file has are learned in training.
        assert "type: classification" in text and "labels:" not in text
        assert f"train: {shards}" in text
