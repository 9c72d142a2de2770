"""`continue_as_new` in a run: what its workflow goes on with, and the exception that ends the function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID


class Continuation(NamedTuple):
    """With which arguments a workflow begins anew."""

    text: str
    """The encoded arguments."""
    application_version: str | None
    """The version that goes on with it; ``None`` for the present one."""
    unseen: Sequence[UUID] = ()
    """Messages that an earlier run has received so late that no run has seen them. They go back."""


class ContinuesAsNew(BaseException):
    """Leaves the function of a workflow that continues as new, through its ``finally`` blocks and context managers."""

    def __init__(self) -> None:
        super().__init__("The workflow continues as new: let this exception pass.")


def is_only_continuing(error: BaseException | None) -> bool:
    """Whether this is nothing but the exception of `continue_as_new`, which a task group has perhaps wrapped."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(ContinuesAsNew)[1] is None
    return isinstance(error, ContinuesAsNew)


def without_continuing(error: BaseException) -> BaseException:
    """What else a group of exceptions has: code has failed while the exception of `continue_as_new` passed it."""
    rest = error.split(ContinuesAsNew)[1] if isinstance(error, BaseExceptionGroup) else error
    assert rest is not None
    return rest
