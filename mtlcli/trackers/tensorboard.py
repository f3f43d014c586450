"""TensorBoard, with the writer that belongs to torch."""

from __future__ import annotations

import shlex
import shutil

from mtlcli.trackers.base import About, Ending, Tracker

FOLDER = "tensorboard"
"""The tracker's folder in the run folder."""


class TensorBoard(Tracker):
    """Writer of event files in `RUN/tensorboard/`."""

    takes_back = True

    def open(self, about: About, identity: str, step: int | None) -> str:
        """Open a new event file, and show the config. Where the run resumes, TensorBoard hides what
        earlier event files say of later steps."""
        # Imported here, because it imports torch and tensorboard.
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._step = about.folder / FOLDER, step or 0
        if step is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = SummaryWriter(
            str(self._folder), purge_step=None if step is None else step + 1, flush_secs=10
        )
        self._text("config", _code(about.config))
        return FOLDER

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Add a point to the curve of each value."""
        self._step = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def scores(self, step: int, values: dict[str, float]) -> None:
        """Add a point to the curve of each value."""
        self.metrics(step, values)

    def finish(self, ending: Ending) -> None:
        """Show the final table and the paths of the files as texts."""
        if table := ending.markdown():
            self._text("results", table)
        self._text("files", _code("\n".join(map(str, ending.files.values()))))
        self._writer.close()

    def advice(self) -> str:
        """Return the command that shows this run beside the others."""
        return f"tensorboard --logdir {shlex.quote(str(self._folder.parent.parent))}"

    def _text(self, name: str, text: str) -> None:
        # At the present step, because a text of a later one would be hidden when the run resumes.
        self._writer.add_text(name, text, self._step)


def _code(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())
