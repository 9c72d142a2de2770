"""Errors of a program, and a workflow that fails with them."""

from __future__ import annotations

from pydantic import BaseModel

from dbos_async import DBOS


class PaymentError(Exception):
    """Its arguments are what it was made of, its message is made of them."""

    def __init__(self, order: str, cents: int) -> None:
        super().__init__(order, cents)
        self.order, self.cents = order, cents

    def __str__(self) -> str:
        return f"{self.order} misses {self.cents} cents"


class ManyError(ExceptionGroup[Exception]):
    """A group of a type of its own."""


class Detail(BaseModel):
    """An argument that is no plain JSON."""

    code: int


def failure() -> Exception:
    """Arguments, a note, a cause with a cause, and members, each with its own."""
    cause = PaymentError("order-16", 1)
    cause.__cause__ = KeyError("no such order")
    member = PaymentError("order-17", 7)
    member.add_note("seen at the till")
    member.__cause__ = cause
    group = ManyError(
        "two of them", [member, OSError(2, "gone", "a file"), ExceptionGroup("inner", [ValueError(b"\xff")])]
    )
    group.add_note("on a Monday")
    return group


@DBOS.step(name="fails in a step")
async def fails_in_a_step() -> None:
    """Fails."""
    raise failure()


@DBOS.workflow(name="fails")
async def fails() -> None:
    """Fails by a step."""
    await fails_in_a_step()


@DBOS.workflow(name="fails with one")
async def fails_with_one() -> None:
    """Fails by itself, with an argument that is no plain JSON."""
    raise PaymentError("order-17", 7) from ValueError(Detail(code=7))
