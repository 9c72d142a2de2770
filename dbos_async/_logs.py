"""What the log shows of texts that others chose: ids, names, keys, messages of errors.

Such a text cannot begin a line of the log, send escapes to a terminal, turn the direction of writing or fill the disk. One filter
sees to that for every record of the logger ``dbos_async``.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, Final

MAX_SHOWN: Final = 2000
"""How many characters of one text are shown."""
MAX_ENTRIES: Final = 200
"""How many frames and messages of one traceback are shown, half of them from its end."""

_INDENT: Final = "    "


class Lines(str):
    """A text of several lines, such as a stack, that the log shows as lines: each is indented."""

    __slots__ = ()


def shown(text: str) -> str:
    """Return a text as one line of printable characters: an escape stands for each other character, and a long text is cut."""
    if len(text) > MAX_SHOWN:
        text = f"{text[:MAX_SHOWN]}…"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def without_stop(text: str) -> str:
    """Return a text without the full stop at its end, for a sentence that goes on after it or has a full stop of its own."""
    return text if text.endswith("..") else text.removesuffix(".")


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: "1 workflow", "2 workflows"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class _Shown(str):
    """An argument of a log line."""

    __slots__ = ("_as_repr",)
    _as_repr: str

    @classmethod
    def of(cls, value: object) -> _Shown:
        try:
            made = cls(shown(str(value)))
            made._as_repr = shown(repr(value[:MAX_SHOWN] if isinstance(value, str) else value))
        except Exception:  # The __str__ and __repr__ of a user's class may raise anything.
            made = cls(f"<{type(value).__name__}>")
            made._as_repr = str(made)
        return made

    def __repr__(self) -> str:
        return self._as_repr


def text_of(value: object) -> str:
    """Return the text of a value, whatever its class does, as the log shows it."""
    return str(_Shown.of(value))


class _SafeText(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record.msg, str) or not record.msg.isprintable():
            record.msg = str(_Shown.of(record.msg))
        if isinstance(record.args, Mapping):
            record.args = {name: _safe(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(map(_safe, record.args))
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = _indented(_traceback(record.exc_info[1]))
        if record.stack_info:
            record.stack_info = _indented([record.stack_info])
        for name in ("threadName", "taskName"):
            if isinstance(text := getattr(record, name, None), str):
                setattr(record, name, shown(text))
        return True


def _safe(value: object) -> Any:
    if value is None or isinstance(value, (int, float)):
        return value
    return f"\n{_indented([value])}" if isinstance(value, Lines) else _Shown.of(value)


def _traceback(error: BaseException | None) -> list[str]:
    try:
        return traceback.format_exception(error)
    except Exception:  # The fields of a user's error may be of any kind, and raise anything when they are read.
        return [f"{type(error).__name__} (it cannot be shown)"]


def _indented(entries: Iterable[str]) -> str:
    entries = list(entries)
    if len(entries) > MAX_ENTRIES:
        half = MAX_ENTRIES // 2
        entries = [*entries[:half], f"… {len(entries) - MAX_ENTRIES} more …", *entries[-half:]]
    most = 10 * MAX_SHOWN
    lines = [line for entry in entries for line in entry[:most].splitlines()]
    return "\n".join(_INDENT + shown(line) for line in lines)


def install() -> None:
    """Let the filter see every record of the logger ``dbos_async``."""
    log = logging.getLogger("dbos_async")
    if not any(isinstance(one, _SafeText) for one in log.filters):
        log.addFilter(_SafeText())
