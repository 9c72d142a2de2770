"""How values, times and errors are shown: as texts that can neither be taken for HTML nor turn the direction of writing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from markupsafe import Markup

from dbos_async._logs import Lines, shown

MAX_VALUE: Final = 4_000
"""How many characters of a value stand on a page; the rest is behind a link."""
MAX_PREVIEW: Final = 160
MAX_TRACEBACK: Final = 20_000
MAX_MESSAGE: Final = 1_000
MAX_CAUSES: Final = 5


def finalize(value: object) -> object:
    """What a template shows of anything that is put into it: printable characters, and nothing for ``None``."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return ""
    if isinstance(value, Lines):
        return "\n".join(shown(line.expandtabs(4)) for line in value.split("\n"))
    return shown(str(value))


def json_of(value: object) -> str:
    """A value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class ShownValue:
    """A value on a page: one line of it, the lines that stand there, and whether that is not all."""

    preview: str
    text: Lines
    is_cut: bool
    size: int


def value_of(value: object) -> ShownValue:
    """How a value is shown."""
    text = json_of(value)
    preview = text if len(text) < MAX_PREVIEW and "\n" not in text else " ".join(text[: 4 * MAX_PREVIEW].split())
    if len(preview) > MAX_PREVIEW:
        preview = f"{preview[:MAX_PREVIEW]}…"
    return ShownValue(preview, Lines(text[:MAX_VALUE]), len(text) > MAX_VALUE, len(text))


@dataclass(frozen=True)
class ShownError:
    """An error on a page, or one that caused it."""

    type: str
    message: str
    notes: list[str]
    traceback: Lines


def errors_of(record: object) -> list[ShownError]:
    """A recorded error and what caused it, as far as the record can be read."""
    found = list(_errors(record))
    return found or [ShownError("An error that cannot be read", value_of(record).preview, [], Lines(""))]


def _errors(record: object) -> Iterator[ShownError]:
    waiting = [record]
    for _ in range(MAX_CAUSES):
        one: Any = waiting.pop(0) if waiting else None
        if not isinstance(one, dict) or not isinstance(one.get("type"), str):
            return
        notes, members = one.get("notes"), one.get("exceptions")
        yield ShownError(
            one["type"].replace(":", ".").removeprefix("builtins."),
            _begin(str(one.get("message", "")), MAX_MESSAGE),
            [str(note) for note in notes[:10]] if isinstance(notes, list) else [],
            _middle_cut(str(one.get("traceback", "")).rstrip()),
        )
        waiting += [one.get("cause"), *(members[:MAX_CAUSES] if isinstance(members, list) else [])]
        waiting = [each for each in waiting if each is not None]


def _begin(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _middle_cut(text: str) -> Lines:
    if len(text) <= MAX_TRACEBACK:
        return Lines(text)
    half = MAX_TRACEBACK // 2
    return Lines(f"{text[:half]}\n… {len(text) - MAX_TRACEBACK:,} more characters …\n{text[-half:]}")


def moment(time: datetime | None) -> Markup:
    """A time of the database, which a script turns into "3 min ago" or "in 3 min"; without it the time itself stands there."""
    if time is None:
        return Markup("")
    time = time.astimezone(UTC)
    text = f"{time:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(time.isoformat(), text, text)


def countdown(time: datetime | None) -> Markup:
    """A deadline, which a script counts down to."""
    if time is None:
        return Markup("for ever")
    time = time.astimezone(UTC)
    text = f"{time:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time class="countdown" datetime="{}" title="{}">until {}</time>').format(
        time.isoformat(), text, text
    )


def duration(seconds: float) -> str:
    """A number of seconds as people say it."""
    seconds = max(seconds, 0.0)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def size(characters: int) -> str:
    """How large a text is."""
    if characters < 1024:
        return f"{characters} characters"
    if characters < 1024 * 1024:
        return f"{characters / 1024:.0f} Ki characters"
    return f"{characters / 1024 / 1024:.1f} Mi characters"


_TONES: Final = {
    "PENDING": "active", "DELAYED": "idle", "SUCCESS": "good", "ERROR": "bad", "CANCELLED": "idle",
    "REPLAY_MISMATCH": "warn", "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "warn",
}  # fmt: skip
_LABELS: Final = {
    "REPLAY_MISMATCH": "PARKED: replay mismatch",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "PARKED: too many recoveries",
}


def status(name: str) -> Markup:
    """A status as a badge: its word, and a colour beside it."""
    return Markup('<span class="badge {}">{}</span>').format(_TONES.get(name, "idle"), _LABELS.get(name, shown(name)))
