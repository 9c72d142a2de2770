"""At most so many attempts of one step at once in a process: each takes a turn, in the order in which they ask.

Each event loop has a line of its own. A turn ends when its attempt has ended, and every thread that the attempt has left behind.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from weakref import WeakKeyDictionary

Waiting = Callable[[], AbstractContextManager[object]]
"""What is done around a wait for a turn."""


class _Line:
    """Those who wait for a turn in one event loop, and how many turns are free."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    def take_free(self) -> bool:
        """Take a turn if one is free. Then nobody waits."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def wait(self) -> None:
        """Return with a turn. One that comes at the moment of a cancellation goes to the next."""
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[given] = None
        try:
            await given
        except BaseException:
            if given.done() and not given.cancelled():
                self.give_back()
            self._waiting.pop(given, None)
            raise

    def give_back(self) -> None:
        """End a turn: the next in line has it."""
        while self._waiting:
            given, _ = self._waiting.popitem(last=False)
            if not given.done():
                given.set_result(None)
                return
        self._free += 1


class Turn:
    """The turn of one attempt."""

    __slots__ = ("_holders", "_line", "is_over")

    def __init__(self, line: _Line) -> None:
        self._line, self._holders = line, 1
        self.is_over = False
        """Whether the attempt has ended."""

    def is_in(self, line: _Line) -> bool:
        """Whether this is a turn of that line, whose attempt goes on."""
        return self._line is line and not self.is_over

    def keep_until(self, over: asyncio.Future[None]) -> None:
        """Let the turn last until this is resolved: a thread has ended."""
        self._holders += 1
        over.add_done_callback(self._let_go, context=contextvars.Context())

    def end(self) -> None:
        """The attempt has ended."""
        self.is_over = True
        self._let_go()

    def _let_go(self, _: object = None) -> None:
        self._holders -= 1
        if not self._holders:
            self._line.give_back()


_held: ContextVar[tuple[Turn, ...]] = ContextVar("dbos_async_turns", default=())
"""The turns of the attempts that the current code is part of."""


class Turns:
    """The turns of one step."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = WeakKeyDictionary()

    def take(self, waiting: Waiting = nullcontext) -> Taking:
        """``async with turns.take() as turn:`` has a turn inside of the block, and waits for it inside of ``waiting``.

        Code that has one needs no other.
        """
        return Taking(self._lines.setdefault(asyncio.get_running_loop(), _Line(self._most)), waiting)


class Taking:
    """Takes a turn at the begin of a block, and ends it at the end."""

    __slots__ = ("_line", "_taken", "_waiting")

    def __init__(self, line: _Line, waiting: Waiting) -> None:
        self._line, self._waiting = line, waiting
        self._taken: tuple[Turn, Token[tuple[Turn, ...]]] | None = None

    async def __aenter__(self) -> Turn:
        held = _held.get()
        for turn in held:
            if turn.is_in(self._line):
                return turn
        if not self._line.take_free():
            with self._waiting():
                await self._line.wait()
        turn = Turn(self._line)
        self._taken = turn, _held.set((*held, turn))
        return turn

    async def __aexit__(self, *_: object) -> None:
        if self._taken is not None:
            turn, token = self._taken
            turn.end()
            _held.reset(token)
