"""Coroutines that asyncio takes from a set start in the order of what they were called with.

``asyncio.as_completed`` puts coroutines into a set, and makes their tasks in the order of their addresses, which no replay can
repeat. In a workflow these tasks wait for each other and then start in an order that is the same each time: that of the names of
the functions, and of the arguments as far as these are plain values.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import itertools
import logging
import sys
from collections.abc import Coroutine
from types import FrameType
from typing import Any, Final

from pydantic import BaseModel

log = logging.getLogger("dbos_async")

_OF_TASKS: Final = asyncio.tasks.__dict__

_PLAIN: Final = (str, int, float, bool, bytes, type(None))
_OPAQUE: Final = "<?>"


def is_from_set(depth: int) -> bool:
    """Whether ``as_completed`` makes the task that a task factory makes; ``depth`` frames above calls ``loop.create_task``."""
    # inspect.currentframe() takes no depth.
    frame: FrameType | None = sys._getframe(depth)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_globals is _OF_TASKS:
        if frame.f_code is asyncio.as_completed.__code__:
            return True
        frame = frame.f_back
    return False


class SetStart:
    """Starts the coroutines of a set, for one run."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Start the coroutine when its turn comes, and return what it returns."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._begin)
        self._waiting.append((describe(coroutine), turn))
        await turn
        return await coroutine

    def _begin(self) -> None:
        waiting, self._waiting = sorted(self._waiting, key=lambda one: one[0]), []
        for (text, _), (following, _) in itertools.pairwise(waiting):
            if text == following and _OPAQUE in text:
                log.warning("as_completed got coroutines that cannot be told apart (%s): give it tasks.", text)
                break
        for _, turn in waiting:
            if not turn.done():
                turn.set_result(None)


def describe(coroutine: Coroutine[Any, Any, Any]) -> str:
    """The function of a coroutine that has not begun, and its arguments."""
    frame = getattr(coroutine, "cr_frame", None)
    if frame is None:
        return f"{type(coroutine).__qualname__} {_OPAQUE}"
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    values = frame.f_locals
    return f"{code.co_qualname}({', '.join(_text(values.get(name)) for name in code.co_varnames[:count])})"


def _text(value: object) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(key)}: {_text(one)}' for key, one in value.items())}}}"
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return f"{type(value).__qualname__} {_text(dict(vars(value)) if hasattr(value, '__dict__') else {})}"
    name = getattr(value, "__qualname__", None) or getattr(value, "name", None)
    return f"{type(value).__qualname__} {name if isinstance(name, str) else _OPAQUE}"
