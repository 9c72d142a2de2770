"""Passwords that a function of the program makes: tokens that live for minutes, secrets that are rotated.

A coroutine function is called in the event loop of the program, any other function in a thread. So a slow one blocks no event loop,
and the thread that keeps the lease gets a token from a plain function also while the program blocks its loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
from anyio.to_thread import run_sync

Password = Callable[[], str | Awaitable[str]]
"""Makes the password of each new connection."""

WITHIN_SECONDS: Final = 10.0
"""So long may the function take."""

ELSEWHERE_WITHIN_SECONDS: Final = 4.0
"""So long does another thread wait for the event loop of the program, which may be blocked. A lease lasts longer."""

WHAT: Final = "the function given as password="


class PasswordError(ConnectionError):
    """The function has made no password. Nothing that it returned or raised is shown but its type: that may have a secret in it."""


class PasswordSource:
    """Asks the function, for whichever thread. Calls at the same time share one answer."""

    def __init__(self, make: Password) -> None:
        self._make = make
        self._is_coroutine_function = _is_coroutine_function(make)
        self._loop = asyncio.get_running_loop()
        self._call: asyncio.Task[str] | None = None
        self._last: str | None = None

    @classmethod
    def of(cls, make: Password) -> PasswordSource:
        """Return the source of this function: itself, if it is one of another thread."""
        return make if isinstance(make, PasswordSource) else cls(make)

    async def __call__(self) -> str:
        """Return a password for a connection that is being made now. Raises `PasswordError`."""
        if asyncio.get_running_loop() is not self._loop:
            return await self._made(ELSEWHERE_WITHIN_SECONDS)
        if self._call is None or self._call.done():
            # In no run's context, and not cancelled with whoever waits for it.
            self._call = self._loop.create_task(self._made(WITHIN_SECONDS), context=contextvars.Context())
            self._call.add_done_callback(_retrieve)
        return await asyncio.shield(self._call)

    async def close(self) -> None:
        """End the call under way."""
        if self._call is not None:
            self._call.cancel()
            await asyncio.wait([self._call])

    async def _made(self, seconds: float) -> str:
        is_here = asyncio.get_running_loop() is self._loop
        try:
            async with asyncio.timeout(seconds):
                made = await self._result(is_here)
        except TimeoutError:
            if is_here or self._last is None:
                raise PasswordError(f"{WHAT} has not returned within {seconds:g} seconds") from None
            made = self._last  # it may still be valid, and is all that there is while the event loop is blocked
        except Exception as error:
            raise PasswordError(f"{WHAT} has raised {type(error).__name__}") from None
        self._last = _checked(made)
        return self._last

    async def _result(self, is_here: bool) -> object:
        if self._is_coroutine_function:
            make: Callable[[], Any] = self._make
            return await (make() if is_here else self._in_program_loop(make))
        made: Any = await run_sync(self._make, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
        if not inspect.isawaitable(made):
            return made
        return await (made if is_here else self._in_program_loop(lambda: made))

    async def _in_program_loop(self, make: Callable[[], Any]) -> object:
        async def wait() -> object:
            return await make()

        waiting = wait()
        try:
            future = asyncio.run_coroutine_threadsafe(waiting, self._loop)
        except RuntimeError:  # the loop is closed
            waiting.close()
            raise
        return await asyncio.wrap_future(future)


def _checked(made: object) -> str:
    if not isinstance(made, str):
        raise PasswordError(f"{WHAT} must return a str and has returned {type(made).__name__}")
    password = str.__str__(made)
    if not password:
        raise PasswordError(f"{WHAT} must return a password and has returned an empty str")
    if "\0" in password or any("\ud800" <= character <= "\udfff" for character in password):
        raise PasswordError(f"{WHAT} has returned a NUL character or a lone surrogate, which no password has")
    return password


def _is_coroutine_function(make: object) -> bool:
    while isinstance(make, functools.partial):
        make = make.func
    return inspect.iscoroutinefunction(make) or inspect.iscoroutinefunction(getattr(type(make), "__call__", None))  # noqa: B004


def _retrieve(call: asyncio.Task[str]) -> None:
    if not call.cancelled():
        call.exception()  # whoever waited for it has heard of it
