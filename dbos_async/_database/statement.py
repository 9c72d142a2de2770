"""The statements of the package: constant text for a batch of calls, and for one row that goes alone.

A step that an earlier run recorded is found in its history, and a call whose answer was lost is known to be repeated. So nearly
every call is new, and looking for an earlier record would be in vain: that is what the form for new calls leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Sql(NamedTuple):
    """The text of a statement in its two forms.

    ``$1`` is the number of the call to which a row belongs, and the other parameters are the columns of the row: arrays of
    them in a ``batch``, the values themselves for ``one_row``.
    """

    batch: str
    one_row: str


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """SQL over a set of calls. Every row of the answer begins with the number of the call that it answers.

    ``sql_if_new`` is executed instead while the calls of a batch are new: it does not look whether they were made before. If one
    was, a unique key rejects the batch, and the batch is retried with ``sql``. ``sql_when_waiting`` is the statement that polls
    again in a wait that has begun. ``parallelism`` is how many batches may be under way at a time. An ordered statement records the
    place of its result, in two more columns at the end of each row. ``sql_if_usual`` is executed first for one row that is new: it
    does what ``sql_if_new`` would do, or nothing, and then it answers no row.
    """

    name: str
    sql: Sql
    parallelism: int = 2
    sql_if_new: Sql | None = None
    sql_when_waiting: Statement | None = None
    is_ordered: bool = False
    sql_if_usual: str | None = None
    is_usual: Callable[[tuple[Any, ...]], bool] | None = None
    """Whether it is worth to try that for this row."""
