"""The output on the screen: text is never read as markup, and tables leave columns out before they
cut a value. This module does not import torch.

rich draws everything. FittingTable is by hand, since a table of rich keeps all columns and cuts the
text in them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

NO_WINDOW = 100_000
"""The width in characters of a pipe or a file, where nothing is cut or folded."""


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error for the caller; rich would end the program with exit code 1."""
        raise  # noqa: PLE0704


def screen(**options: Any) -> Console:
    """Return a rich console for text that quotes the user: brackets and colons in the text are
    never markup.

    The console is as wide as the terminal, or as the environment variable COLUMNS says; without
    COLUMNS, a pipe has no width limit.
    """
    made = _Screen(highlight=False, markup=False, emoji=False, **options)
    if (
        "width" not in options
        and not made.is_terminal
        and not os.environ.get("COLUMNS", "").isdigit()
    ):
        made.width = NO_WINDOW
    return made


@dataclass
class Column:
    """A column of a FittingTable."""

    title: str
    right: bool = False
    """Whether the cells are aligned to the right, as numbers are."""
    goes: int = 0
    """Order of leaving columns out where there is no room: the highest number goes first; with 0,
    the column always stays."""
    fold: int | None = None
    """The width beyond which the column is folded before others are left out; None: its cells are
    never folded."""


@dataclass
class FittingTable:
    """A table that leaves out columns, the least important first, when the window is too narrow,
    and names them below."""

    columns: list[Column]
    title: str = ""
    whole: str = ""
    """The place where all columns can be read, for the line that names those left out; empty: no
    such line."""
    style: dict[str, Any] = field(default_factory=dict)
    """Options of rich's Table, for example its box."""
    rows: list[tuple[tuple[str, ...], str | None]] = field(default_factory=list)
    """Cells and style of each row; a row without cells is a line across the table."""

    def add_row(self, *cells: str, style: str | None = None) -> None:
        """Append a row; missing cells are empty."""
        self.rows.append((cells, style))

    def add_line(self) -> None:
        """Draw a line below the last row."""
        self.rows.append(((), None))

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        shown = list(self.columns)
        while self._width(shown, console, options) > options.max_width and any(
            column.goes for column in shown
        ):
            shown.remove(max(shown, key=lambda column: column.goes))
        yield self._table(shown)
        if self.whole and len(shown) < len(self.columns):
            absent = ", ".join(column.title for column in self.columns if column not in shown)
            yield Text(f"The window is too narrow for {absent}: see {self.whole}.")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._table(self.columns))

    def _width(self, columns: list[Column], console: Console, options: ConsoleOptions) -> int:
        """Return the number of characters that the columns need side by side."""
        table = self._table(columns)
        for column, made in zip(columns, table.columns, strict=True):
            made.max_width = column.fold
        return Measurement.get(console, options.update(max_width=NO_WINDOW), table).maximum

    def _table(self, columns: list[Column]) -> Table:
        table = Table(
            title=Text(self.title) if self.title else None, title_justify="left", **self.style
        )
        for column in columns:
            justify: Any = "right" if column.right else "left"
            table.add_column(
                Text(column.title), justify=justify, no_wrap=column.fold is None, overflow="fold"
            )
        places = [self.columns.index(column) for column in columns]
        for cells, style in self.rows:
            if cells:
                table.add_row(
                    *(Text(cells[place]) if place < len(cells) else None for place in places),
                    style=style,
                )
            else:
                table.add_section()
        return table
