"""Printing: tables and lines for people, JSON for programs. What a user has named or sent is never read as markup."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any, Final, Literal

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from dbos_async._cli.texts import json_text, safe

WIDTH_OF_A_PIPE: Final = 200

STATUS_STYLES: Final = {
    "PENDING": "cyan", "DELAYED": "blue", "SUCCESS": "green", "ERROR": "bold red", "CANCELLED": "yellow",
    "REPLAY_MISMATCH": "bold magenta", "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "bold magenta",
}  # fmt: skip
STATUS_MARKS: Final = {"PENDING": "●", "DELAYED": "○", "SUCCESS": "✓", "ERROR": "✗", "CANCELLED": "⊘"}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console for one command. A pipe has room for long lines, unless ``COLUMNS`` says otherwise."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")  # an encoding that lacks our marks
    wide = not stream.isatty() and not os.environ.get("COLUMNS", "").isdigit()
    return _Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=WIDTH_OF_A_PIPE if wide else None)


def write(text: str) -> None:
    """Write a line to standard output at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def show(renderable: RenderableType) -> None:
    """Print something for people. A pipe gets no blanks at the ends of lines."""
    out = console()
    if out.is_terminal:
        out.print(renderable)
        return
    with out.capture() as captured:
        out.print(renderable)
    write("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def note(text: str, style: str = "dim") -> None:
    """Say something to the person on standard error, where no program reads it."""
    console(stderr=True).print(Text(text, style), soft_wrap=True)


def write_json(value: Any) -> None:
    """Write one JSON document."""
    console()  # for an encoding that lacks characters
    write(json_text(value, indent=2))


def write_json_line(value: Any) -> None:
    """Write one JSON document on one line."""
    console()
    write(json_text(value))


def status_text(status: str, *, unclaimable: bool = False) -> Text:
    """A status with its mark and colour."""
    mark = "!" if unclaimable else STATUS_MARKS.get(status, "‖")
    text = Text(f"{mark} {safe(status)}", STATUS_STYLES.get(status, ""))
    if unclaimable:
        text.append(" unclaimable", "bold red")
    return text


@dataclass(frozen=True)
class Column:
    """One column of a table. In a terminal of fewer than ``from_width`` cells it is left out."""

    head: str
    justify: Literal["left", "right"] = "left"
    folds: bool = False
    from_width: int = 0
    max_width: int | None = None
    style: str = ""


def table(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]], width: int) -> Table:
    """A table without lines around it, whose texts are shown as they are. A column of which no row has anything is left out."""
    rows = list(rows)
    kept = [
        place
        for place, column in enumerate(columns)
        if width >= column.from_width and any(len(row[place]) for row in rows)
    ]
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", border_style="dim")
    for place in kept:
        column = columns[place]
        made.add_column(
            column.head, justify=column.justify, no_wrap=not column.folds, max_width=column.max_width,
            overflow="fold" if column.folds else "ellipsis", style=column.style,
        )  # fmt: skip
    for row in rows:
        made.add_row(*(Text(safe(cell)) if isinstance(cell, str) else cell for cell in (row[place] for place in kept)))
    return made
