"""What is written for each act: bytes of WAL, beside a raw insert of the same payload; and how many updates stay in their page.

An update is HOT when no index has to hear of it. A workflow's start, claim and end and a message's receipt move rows between
indexes that hold only what is still to be done, so those updates never are.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from tests.benchmarks.baseline import ROWS, Baseline
from tests.benchmarks.ours import Ours
from tests.benchmarks.workloads import EVENT_WORKFLOWS, EVENTS_EACH, SIZES, TASKS
from tests.support.eventually import eventually

SIZE = 100

WRITTEN = "select (pg_current_wal_insert_lsn() - '0/0')::bigint"

ALONE = """
    select count(*) = 0 from pg_stat_activity
    where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
"""

UPDATES = """
    select relname, n_tup_upd, n_tup_hot_upd from pg_stat_user_tables
    where schemaname = 'dbos_async' and n_tup_upd > 0 order by relname
"""

# What is done: by whom, which workload, and how many of it there are for each time that the workload is told to do.
ACTS: dict[str, tuple[str, str, int]] = {
    "a row, inserted alone": ("baseline", "lone_send", 1),
    f"a row, one of {ROWS} inserted": ("baseline", "sends_queued", 5 * TASKS),
    "a workflow that does nothing": ("ours", "no_op", TASKS),
    "a message, sent alone and received": ("ours", "lone_send", 1),
    "a message, one of many sent and received": ("ours", "send_recv", TASKS),
    "a value, written alone": ("ours", "stream_latency", 1),
    "a value, one of 20 streams": ("ours", "streams_20", 20),
    "an event, set": ("ours", "events", EVENT_WORKFLOWS * EVENTS_EACH),
}


async def study(url: str, amount: str) -> dict[str, float]:
    """For the command of all benchmarks."""
    found: dict[str, float] = {}
    connection = await asyncpg.connect(url)
    try:
        async with Ours(url, SIZE) as ours, Baseline(url, SIZE) as baseline:
            players: dict[str, Any] = {"ours": ours, "baseline": baseline}
            for player in players.values():
                await player.warm_up()
            for what, (who, workload, of_one) in ACTS.items():
                count = SIZES[amount][0][workload]
                before = await connection.fetchval(WRITTEN)
                await getattr(players[who], workload)(count)
                found[f"{what}, bytes"] = (await connection.fetchval(WRITTEN) - before) / (count * of_one)
        # Server processes say what they did when they end at the latest.
        await eventually(lambda: connection.fetchval(ALONE), "the connections of the workloads are closed")
        for table, updates, hot in await connection.fetch(UPDATES):
            found[f"HOT, of the updates of {table}, %"] = 100 * hot / updates
    finally:
        await connection.close()
    return found
