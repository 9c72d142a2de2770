"""The steps of a workflow as a timeline: when, how long, with whom, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dbos_async._cli.exits import CommandError
from dbos_async._cli.step_words import Line, lines_of, mark_of, received, took, words_of
from dbos_async._cli.texts import duration, error_line, error_of, json_text, safe
from dbos_async._operations.description import DescribedStep, WorkflowDescription

BARS_FROM_WIDTH: Final = 76
MAX_BAR: Final = 36
ERROR_LINES: Final = 3


def timeline(found: WorkflowDescription, width: int, *, payloads: bool = False) -> RenderableType:
    """The steps of a description, the oldest first."""
    lines = lines_of(found.steps)
    scale = _Scale.of(found.steps, found.now, _bar_cells(width))
    offsets, durations = _times(lines, found), [took(line) for line in lines]
    edge = (
        max([len(line.number) for line in lines] + [4]),
        *(max(map(len, [*each, ""])) for each in (offsets, durations)),
    )
    words_cells = max(width - sum(edge) - (scale.cells + 2 if scale.cells else 0) - 6, 20)
    made: list[RenderableType] = []
    grid = _grid(edge, scale.cells)
    for line, offset, how_long in zip(lines, offsets, durations, strict=True):
        row: list[Text] = [Text(line.number, "dim"), Text(offset, "dim")]
        if scale.cells:
            row.append(scale.bar(line))
        is_open = line.steps[-1].completed_at is None
        row += [Text(how_long, "bold cyan" if is_open else ""), words_of(line, words_cells)]
        grid.add_row(*row)
        below = [*_below(line, words_cells), *(_payloads(line) if payloads else ())]
        for text in below:
            grid.add_row(*[Text("")] * (len(row) - 1), text)
    made.append(grid)
    return Group(*made)


def _grid(edge: tuple[int, ...], bar: int) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", no_wrap=True, min_width=edge[0])
    grid.add_column(justify="right", no_wrap=True, min_width=edge[1])
    if bar:
        grid.add_column(no_wrap=True, width=bar)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def _times(lines: Sequence[Line], found: WorkflowDescription) -> list[str]:
    """When they began: so long after the start of the workflow, and for longer workflows the time in UTC."""
    offsets = [max((line.first.started_at - found.status.created_at).total_seconds(), 0) for line in lines]
    if max(offsets, default=0) < 60:
        return [f"+{duration(seconds)}" for seconds in offsets]
    form = "%H:%M:%S" if max(offsets) < 86400 else "%m-%d %H:%M:%S"
    return [line.first.started_at.strftime(form) for line in lines]


def _bar_cells(width: int) -> int:
    return 0 if width < BARS_FROM_WIDTH else min(MAX_BAR, width // 6)


class _Scale:
    """Where a time lies in the bars."""

    def __init__(self, begin: datetime, end: datetime, cells: int) -> None:
        self._begin, self._seconds, self.cells = begin, max((end - begin).total_seconds(), 1e-6), cells
        self._end = end

    @classmethod
    def of(cls, steps: Sequence[DescribedStep], now: datetime, cells: int) -> _Scale:
        if not steps:
            return cls(now, now, cells)
        return cls(steps[0].started_at, max(one.completed_at or now for one in steps), cells)

    def bar(self, line: Line) -> Text:
        step, last = line.first, line.steps[-1].completed_at
        first = self._cell(step.started_at)
        count = max(self._cell(last or self._end) - first, 1)
        first = min(first, self.cells - 1)
        count = min(count, self.cells - first)
        mark = mark_of(step)
        style = "red" if mark == "✗" else "cyan" if last is None else "green" if mark == "■" else "blue"
        return Text.assemble(" " * first, (("━" if mark in "■✗" else "─") * count, style))

    def _cell(self, time: datetime) -> int:
        share = (time - self._begin).total_seconds() / self._seconds
        return max(0, min(int(share * self.cells), self.cells))


def _below(line: Line, cells: int) -> Iterable[Text]:
    """The error of a step, or of its last attempt."""
    step = line.first
    if step.error is not None:
        text = error_line(step.error)
    elif step.last_error is not None:
        text = safe(step.last_error)
    else:
        return
    most = ERROR_LINES * cells
    yield Text(f"  {text[:most]}{'…' if len(text) > most else ''}", "red")


def _payloads(line: Line) -> Iterable[Text]:
    for step in line.steps:
        if step.is_cut:
            yield Text("  (large: 'dbos-async workflows export' has it)", "dim")
        elif step.error is not None:
            yield from _traceback(error_of(step.error)[2])
        elif step.output is not None:
            yield Text(_indented(_pretty(received(step))), "dim")


def _traceback(text: str) -> Iterable[Text]:
    if text:
        yield Text("\n".join(f"  {safe(each)}" for each in text.splitlines()), "dim")


def _pretty(value: object) -> str:
    try:
        return json_text(value, indent=2)
    except CommandError as error:
        return error.sentence


def _indented(text: str) -> str:
    return "\n".join(f"  {each}" for each in text.split("\n"))


def value_block(value: object) -> RenderableType:
    """A whole value, indented."""
    return Padding(Text(_pretty(value)), (0, 0, 0, 4))


def traceback_block(record: object) -> RenderableType:
    """The traceback of a stored error, indented."""
    return Group(*(Padding(each, (0, 0, 0, 2)) for each in _traceback(error_of(record)[2])))
