"""What every error of `errors.py` is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform


class DBOSError(Exception):
    """The base of every error that dbos_async raises. ``str(error)`` is one sentence."""

    __module__ = "dbos_async.errors"

    def __post_init__(self) -> None:
        # OSError, the base of TimeoutError, would read meanings of its own into args that are passed to its __init__.
        self.args: tuple[Any, ...] = tuple(vars(self).values())


class InvalidArgumentError(DBOSError, ValueError):
    """Raised for a key, an id, a number or another argument that cannot be used; nothing was stored."""

    __module__ = "dbos_async.errors"


_Error = TypeVar("_Error", bound=DBOSError)


@dataclass_transform(eq_default=False)
def with_fields(error_type: type[_Error]) -> type[_Error]:
    """Give an error type the ``__init__`` of a dataclass, but not its marks: pydantic stores dataclasses as JSON values."""
    dataclass(eq=False, repr=False, match_args=False)(error_type)
    for mark in ("__dataclass_fields__", "__dataclass_params__", "__replace__"):
        if mark in vars(error_type):
            delattr(error_type, mark)
    return error_type
