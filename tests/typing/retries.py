"""Retries and `DBOS.run_step`, as a type checker must see them (see surface.py)."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Coroutine
from datetime import timedelta
from typing import Any, assert_type

from dbos_async import DBOS, RetryAfter, StepFunction


class UnavailableError(Exception):
    status: int


def is_worth_it(error: Exception) -> bool:
    return isinstance(error, UnavailableError)


async def is_worth_it_later(error: Exception) -> bool:
    return is_worth_it(error)


def says_no_bool(error: Exception) -> str:
    return str(error)


@DBOS.step(
    retries_allowed=True,
    max_attempts=5,
    retry_on=(OSError, UnavailableError),
    max_interval_seconds=60,
    jitter=True,
    max_concurrent=20,
)
async def post(order: int, *, note: str = "") -> bytes:
    if order < 0:
        raise RetryAfter(timedelta(seconds=5), "too many") from OSError()
    raise RetryAfter(5)


DBOS.step(retries_allowed=True, retry_on=OSError)
DBOS.step(retries_allowed=True, retry_on=[OSError, UnavailableError])
DBOS.step(retries_allowed=True, retry_on={OSError})
DBOS.step(retries_allowed=True, retry_on=is_worth_it)
DBOS.step(retries_allowed=True, retry_on=is_worth_it_later)
DBOS.step(retries_allowed=True, retry_on=lambda error: isinstance(error, UnavailableError) and error.status == 503)
DBOS.step(retries_allowed=True, retry_on=None, max_interval_seconds=None, max_concurrent=None)


def wrong() -> None:
    DBOS.step(retry_on=KeyboardInterrupt)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no Exception
    DBOS.step(retry_on=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # nothing of the kind
    DBOS.step(retry_on=says_no_bool)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no bool
    DBOS.step(jitter="full")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no bool
    DBOS.step(max_concurrent=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no int
    RetryAfter("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the text of a header is no number


def price(item: str, *, discount: int = 0) -> int:
    return len(item) - discount


async def price_later(item: str, *, discount: int = 0) -> int:
    return price(item, discount=discount)


def price_by_coroutine(item: str) -> Coroutine[Any, Any, int]:
    return price_later(item)


class Shop:
    async def open(self, hour: int) -> str:
        return f"{hour}"

    @staticmethod
    def names() -> list[str]:
        return []


@DBOS.workflow()
async def workflow() -> None:
    assert_type(await DBOS.run_step("price", price, "a widget", discount=1), int)
    assert_type(await DBOS.run_step("price", price_later, "a widget", discount=1), int)
    assert_type(await DBOS.run_step("price", price_by_coroutine, "a widget"), int)
    assert_type(await DBOS.run_step("price", lambda: price_later("a widget")), int)
    assert_type(await DBOS.run_step("price", lambda: price("a widget")), int)
    assert_type(await DBOS.run_step("price", functools.partial(price_later, "a widget")), int)
    assert_type(await DBOS.run_step("open", Shop().open, 9), str)
    assert_type(await DBOS.run_step("names", Shop.names), list[str])
    pending: Awaitable[int] = DBOS.run_step("price", price, "a widget")
    assert_type(await pending, int)
    assert_type(DBOS.attempt, int | None)
    made: StepFunction[[str], int] = DBOS.step(name="made", retries_allowed=True)(price_later)
    assert_type(await made("a widget"), int)


async def wrong_calls() -> None:
    await DBOS.run_step("price", price, 5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no str
    await DBOS.run_step("price", price, "a", discont=1)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]  # no such keyword
    await DBOS.run_step(price, "a widget")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no name
    await DBOS.run_step("price")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # no function
