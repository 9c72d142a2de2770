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

LOCK_FOR_TRANSACTION: Final = "pg_advisory_xact_lock(bigint)"
UNLOCK_ALL: Final = "pg_advisory_unlock_all()"
LIVENESS: Final = (
    "pg_advisory_lock_shared(bigint)",
    "pg_try_advisory_lock_shared(integer, integer)",
    "pg_advisory_unlock_shared(integer, integer)",
)
"""The liveness lock and the beat of an executor. Without them its renewals show that it lives."""

DISPENSABLE: Final = (
    START_TIME, LOCKS, LOCK_STATUS, ACTIVITY, GET_ACTIVITY, SET_CONFIG, LOCK_FOR_TRANSACTION, UNLOCK_ALL, *LIVENESS
)  # fmt: skip
"""Functions and views without which the library works, unless both locks and activity are denied."""

NEEDED_WITHOUT_SESSION: Final = frozenset((ACTIVITY, GET_ACTIVITY, SET_CONFIG))
"""Those without which it does not work behind a pooler in transaction mode."""

NEEDED: Final = (
    "pg_notify(text, text)",
    "pg_backend_pid()",
    "pg_current_snapshot()",
    "pg_current_xact_id()",
    "current_setting(text)",
)
"""What nothing replaces."""

VIEWS: Final = frozenset({LOCKS, ACTIVITY})

_OTHER_NAMES: Final = {LOCK_STATUS: LOCKS, GET_ACTIVITY: ACTIVITY}

# Transactions of this role are seen by their backends, whether they write or not; those of other roles once they have written, by
# the snapshot, and by the numbers from its end to the one that this transaction takes.
_WRITERS: Final = """(
    select 'relation' as locktype, 'RowExclusiveLock' as mode, true as granted, t.pid, t.virtualtransaction, r.oid as relation,
           r.database, null::oid as classid, null::oid as objid, null::int2 as objsubid
    from (
        select pid, pid || ' ' || extract(epoch from xact_start) as virtualtransaction
        from pg_stat_get_activity(null)
        where xact_start is not null and datid = (select oid from pg_database where datname = current_database())
        union all
        select null, x::text from pg_snapshot_xip(pg_current_snapshot()) as x
        union all
        select null, x::text
        from (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next, pg_current_xact_id()::text::bigint as own) as i
        cross join lateral generate_series(i.next, i.own - 1) as x
    ) as t
    cross join (
        select c.oid, d.oid as database from pg_class as c
        join pg_namespace as s on s.oid = c.relnamespace and s.nspname = 'dbos_async' and c.relkind = 'r'
        cross join (select oid from pg_database where datname = current_database()) as d
    ) as r
) as pg_locks"""

# A backend that works on a statement is in a transaction, and so holds the lock of that.
_AT_WORK: Final = """(
    select pid, null::text as state, null::text as wait_event, null::timestamptz as state_change, null::text as application_name
    from pg_locks where locktype = 'virtualxid' and granted
) as pg_stat_activity"""

_UNSEEN: Final = "(select null::int4 as pid, null::text as state, null::timestamptz as xact_start where false)"


def names_of(denied: Iterable[str]) -> frozenset[str]:
    """The same with each view and its function under the name of the view."""
    return frozenset(_OTHER_NAMES.get(each, each) for each in denied)


def dispensable(denied: Iterable[str], *, has_session: bool) -> frozenset[str]:
    """Those of these which the library does without, under the names of `names_of`."""
    found = names_of(each for each in denied if each in DISPENSABLE)
    if not has_session:
        found -= NEEDED_WITHOUT_SESSION
    return found - {ACTIVITY, LOCKS} if found >= {ACTIVITY, LOCKS} else found  # each is replaced by the other one


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
