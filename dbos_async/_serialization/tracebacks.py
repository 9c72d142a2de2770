"""Tracebacks as text, which is stored beside an error to be read. Nothing is made of it again."""

from __future__ import annotations

import traceback
from typing import Final

MAX_FRAMES: Final = 20
MAX_LENGTH: Final = 8000
"""Of the error itself, in frames and in characters: the innermost are kept."""
MAX_INNER_FRAMES: Final = 4
MAX_INNER_LENGTH: Final = 1000
"""Of each of its causes and members."""
_KEPT: Final = "__recorded_traceback__"


def text_of(error: BaseException, is_whole: bool) -> str:
    """Return where an error was raised, as Python shows it: files, lines and their text, and no values."""
    frames, length = (MAX_FRAMES, MAX_LENGTH) if is_whole else (MAX_INNER_FRAMES, MAX_INNER_LENGTH)
    kept = vars(error).get(_KEPT)
    if isinstance(kept, str):
        return kept[-length:]  # It was recorded before: there is where it came from.
    try:
        text = "".join(traceback.format_tb(error.__traceback__, limit=-frames))
    except Exception:  # A loader of modules, which finds the lines, may raise anything.
        return ""
    return text.encode("utf-8", "backslashreplace").decode()[-length:]


def keep(error: BaseException, text: str) -> None:
    """Let an error that is recorded once more keep its first traceback."""
    vars(error)[_KEPT] = text
