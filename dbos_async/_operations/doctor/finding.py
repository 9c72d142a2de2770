"""What the doctor says: one sentence for each thing that it has looked at, and what to do about it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

Level = Literal["ok", "warning", "problem"]


class Finding(BaseModel, frozen=True):
    """One thing that was looked at.

    - ``check`` is the subject, such as ``"pooler"``; a check may have several findings.
    - ``level`` is ``"problem"`` for what keeps an application from working or loses data, ``"warning"`` for what a person should
      look after, else ``"ok"``.
    - ``says`` is one sentence with the figures, ``advice`` what to change or to execute, ``None`` when there is nothing to do.
    - ``took_ms`` is how long the check took, in milliseconds.

    No text has a password in it. Names that others chose are shown as one line of printable characters.
    """

    check: str
    level: Level
    says: str
    advice: str | None = None
    took_ms: float | None = None


def ok(says: str) -> Finding:
    """All is well. The name of the check comes later, as in the two below."""
    return Finding(check="", level="ok", says=says)


def warning(says: str, advice: str | None = None) -> Finding:
    """A person should look after this."""
    return Finding(check="", level="warning", says=says, advice=advice)


def problem(says: str, advice: str | None = None) -> Finding:
    """This keeps an application from working, or loses data."""
    return Finding(check="", level="problem", says=says, advice=advice)


def duration(seconds: float) -> str:
    """Return a time as people say it: "45 s", "12 min", "3 h", "2 days"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def size(count: float) -> str:
    """Return a number of bytes as people say it: "12 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def listed(names: list[str], most: int = 5) -> str:
    """Return names as a list that stays short: "a, b and 3 more"."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def quoted(name: str) -> str:
    """Return a name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'
