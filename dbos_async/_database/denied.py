"""Functions of the server that some providers deny: which the library can do without, and how."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

START_TIME: Final = "pg_postmaster_start_time()"
LOCKS: Final = "pg_locks"
LOCK_STATUS: Final = "pg_lock_status()"
ACTIVITY: Final = "pg_stat_activity"
GET_ACTIVITY: Final = "pg_stat_get_activity(integer)"
SET_CONFIG: Final = "set_config(text, text, boolean)"

DISPENSABLE: Final = (START_TIME, LOCKS, LOCK_STATUS, ACTIVITY, GET_ACTIVITY, SET_CONFIG)
"""Functions and views without which the library works, unless both locks and activity are denied."""

NEEDED: Final = (
    "pg_notify(text, text)",
    "pg_backend_pid()",
    "pg_current_snapshot()",
    "pg_current_xact_id()",
    "current_setting(text)",
)
"""What nothing replaces."""

NEEDED_BY_EXECUTORS: Final = (
    "pg_advisory_lock_shared(bigint)",
    "pg_try_advisory_lock_shared(integer, integer)",
    "pg_advisory_unlock_shared(integer, integer)",
    "pg_advisory_unlock_all()",
)
"""The liveness lock, the beat, and what asyncpg executes before a session is used again."""

VIEWS: Final = frozenset({LOCKS, ACTIVITY})

_OTHER_NAMES: Final = {LOCK_STATUS: LOCKS, GET_ACTIVITY: ACTIVITY}

# Transactions of this role are seen by their backends, whether they write or not, and those of other roles once they have written.
_WRITERS: Final = """(
    select 'relation' as locktype, 'RowExclusiveLock' as mode, true as granted, t.pid, t.virtualtransaction, r.oid as relation,
           r.database, null::oid as classid, null::oid as objid, null::int2 as objsubid
    from (
        select pid, pid || ' ' || extract(epoch from xact_start) as virtualtransaction
        from pg_stat_get_activity(null)
        where xact_start is not null and datid = (select oid from pg_database where datname = current_database())
        union all
        select null, x::text from pg_snapshot_xip(pg_current_snapshot()) as x
    ) as t
    cross join (
        select c.oid, d.oid as database from pg_class as c
        join pg_namespace as s on s.oid = c.relnamespace and s.nspname = 'dbos_async' and c.relkind = 'r'
        cross join (select oid from pg_database where datname = current_database()) as d
    ) as r
) as pg_locks"""

# A backend that works on a statement is in a transaction, and so holds the lock of that.
_AT_WORK: Final = """(
    select pid, null::text as state, null::text as wait_event, null::timestamptz as state_change
    from pg_locks where locktype = 'virtualxid' and granted
) as pg_stat_activity"""

_UNSEEN: Final = "(select null::int4 as pid, null::text as state, null::timestamptz as xact_start where false)"


def names_of(denied: Iterable[str]) -> frozenset[str]:
    """The same with each view and its function under the name of the view."""
    return frozenset(_OTHER_NAMES.get(each, each) for each in denied)


def without_denied(sql: str, denied: frozenset[str]) -> str:
    """This SQL without what is denied."""
    if ACTIVITY in denied:
        sql = re.sub(r"\bpg_stat_activity\b", lambda _: _AT_WORK, sql)
        sql = re.sub(r"\bpg_stat_get_activity\([^)]*\)", lambda _: _UNSEEN, sql)
    if LOCKS in denied:
        sql = re.sub(r"\bpg_locks\b", lambda _: _WRITERS, sql)
    if SET_CONFIG in denied:
        sql = re.sub(r"\bset_config\([^)]*\)", "null::text", sql)
    return sql
