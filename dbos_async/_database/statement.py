"""The SQL of the library: constant text for a set of calls, its short form for new ones, and its form for one alone.

A step that an earlier run recorded is found in its history, and a call whose answer was lost is known to be repeated. So what
is called is nearly always new, and the look whether it is would be made in vain.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

_RECORDED = "left join lateral (the recorded step) as s on true"
_LOOK = """left join lateral (
            select verb, key, output, error from dbos_async.steps
            where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
        ) as s on true"""
_NOTHING = "cross join (select null::text as verb, null::text as key, null::json as output, null::json as error) as s"
_REPEATED = "on conflict do nothing -- when it is repeated"

_COLUMN = r"\$\d+::\w+\[\]"
_ROWS = re.compile(rf"unnest\(((?:{_COLUMN}[,\s]*)+)\)(\s+with ordinality)?")


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """SQL over a set of calls: ``$1`` is each row's call number, the other parameters are the columns of its rows.

    Every row of the answer begins with the number of the call that it answers. ``first`` is said instead while the calls of a
    batch are new: it does not look whether they were made before. Where one was, a unique key refuses it, and ``sql`` is said.
    ``later`` is what a wait that goes on looks again with.
    """

    name: str
    sql: str
    parallelism: int = 2
    sql_if_new: str | None = None
    sql_when_waiting: Statement | None = None


def optimistic(name: str, sql: str, whose: str = "workflow_id") -> Statement:
    """A statement that takes its calls for new when it is said first: it looks for no recorded step, and for no repetition."""
    subscription = _LOOK.replace("c.workflow_id", f"c.{whose}")
    return Statement(
        name, sql.replace(_RECORDED, subscription), sql_if_new=sql.replace(_RECORDED, _NOTHING).replace(_REPEATED, "")
    )


@functools.cache
def for_one_row(sql: str) -> str | None:
    """The same for one row, which is passed as it is and not as columns: there is nothing to unpack, to gather or to sort.

    ``None`` for a statement that does more with its columns than to read them as rows.
    """

    def values(rows: re.Match[str]) -> str:
        row = rows[1].replace("[]", "")
        return f"(values ({row}, 1::bigint))" if rows[2] else f"(values ({row}))"

    changed = _ROWS.sub(values, sql).replace("string_agg(distinct ", "string_agg(")
    return None if changed == sql or re.search(_COLUMN, changed) else changed
