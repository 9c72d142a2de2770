"""Texts for a terminal: what others chose as printable characters, values as JSON, times as people say them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import PydanticSerializationError, to_json
from rich.cells import cell_len, set_cell_size

from dbos_async._checks import MAX_WAIT_SECONDS, seconds_in
from dbos_async._cli.exits import CommandError, ExitCode
from dbos_async._logs import MAX_SHOWN, shown


def safe(text: str) -> str:
    """Return the whole of a text as one line of printable characters."""
    if text.isprintable():
        return text
    return "".join(shown(text[start : start + MAX_SHOWN]) for start in range(0, len(text), MAX_SHOWN))


def fitted(text: str, cells: int) -> str:
    """Return the beginning of a text as it fits into so many cells of a terminal, with an ellipsis where it is cut."""
    text = safe(
        text[: 4 * max(cells, 0) + 4]
    )  # no character takes less than a cell, save those that combine with another
    return text if cell_len(text) <= cells else set_cell_size(text, max(cells - 1, 0)).rstrip() + "…"


def printable_json(text: str) -> str:
    """Return JSON in which escapes stand for what cannot be printed. It means the same."""
    return "\n".join(line if line.isprintable() else "".join(map(_json_escape, line)) for line in text.split("\n"))


def _json_escape(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return a value, or a model, as printable JSON."""
    try:
        text = to_json(value, indent=indent, inf_nan_mode="constants").decode()
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise CommandError(f"A value cannot be shown as JSON: {safe(str(error))[:200]}.") from None
    return printable_json(text)


def brief_json(value: Any, cells: int) -> str:
    """Return the beginning of a value as JSON on one line."""
    try:
        return fitted(json_text(value), cells)
    except CommandError:
        return fitted("(a value that cannot be shown)", cells)


def duration(seconds: float) -> str:
    """Return how long something takes, in its two largest units: ``12 ms``, ``3.4 s``, ``2 min 5 s``, ``3 h 4 min``."""
    if seconds < 0.0005:
        return "0 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole, 60, "min", 1, "s")
    if whole < 86400:
        return _two(whole, 3600, "h", 60, "min")
    return _two(whole, 86400, "d", 3600, "h")


def _two(seconds: int, large: int, large_name: str, small: int, small_name: str) -> str:
    rest = seconds % large // small
    return f"{seconds // large} {large_name}" + (f" {rest} {small_name}" if rest else "")


def age(since: datetime, now: datetime | None = None) -> str:
    """Return how long ago something was, in its largest unit."""
    seconds = max(((now or datetime.now(UTC)) - since).total_seconds(), 0)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def seconds_of(text: str, what: str) -> float:
    """Return the seconds of ``90s``, ``15m``, ``1h``, ``2d`` or ``1w``."""
    seconds = seconds_in(text)
    if seconds is None:
        raise CommandError(
            f"{what} must be a time such as 90s, 15m, 1h, 2d or 1w and is {shown(repr(text[:100]))}.", ExitCode.USAGE
        )
    return seconds


def moment_of(text: str, what: str) -> datetime:
    """Return the time that was so long ago (``1h``), or that the text names in the form of ISO 8601."""
    if (seconds := seconds_in(text)) is not None:
        return datetime.now(UTC) - timedelta(seconds=min(seconds, MAX_WAIT_SECONDS))
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise CommandError(
            f"{what} must be a time ago (90s, 15m, 1h, 2d, 1w) or a time of ISO 8601 and is {shown(repr(text[:100]))}.",
            ExitCode.USAGE,
        ) from None


def error_of(record: Any) -> tuple[str, str, str]:
    """Return the type, the message and the traceback of a stored error, as far as it has them."""
    if not isinstance(record, dict):
        return "error", record if isinstance(record, str) else brief_json(record, 1000), ""
    kind, message, traceback = (str(record.get(name, "")) for name in ("type", "message", "traceback"))
    return kind.rpartition(":")[2].rpartition(".")[2] or "error", message, traceback


def error_line(record: Any) -> str:
    """Return a stored error on one line: ``ValueError: no such item``."""
    kind, message, _ = error_of(record)
    return safe(f"{kind}: {message}" if message else kind)
