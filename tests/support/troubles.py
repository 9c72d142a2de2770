"""What other people do to a database: statements refused or slowed down by triggers, locks, tables renamed, clocks set.

Each is a block: it holds inside and is over behind it. All of it is plain SQL on a connection of the test's own.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tests.support.eventually import eventually

REFUSAL = "refused for a while"
"""What a refusing trigger says."""

CODES = ("P0001", "42501", "54000", "53100", "XX000", "57014")
"""Kinds of refusal that concern no value: raised by a user's trigger, no right, a limit of the server (wraparound, a full
notification queue), a full disk, an internal error, and a statement that was told to stop."""

OURS = "from pg_stat_activity where datname = current_database() and application_name = 'dbos_async'"

TRIGGER = """
create sequence public.{name}_tries;
create table public.{name} (codes text[], lets_through boolean, seconds float8);
create function public.{name}_meet() returns trigger language plpgsql security definer as $$
declare
    it public.{name};
    try bigint;
begin
    select * into it from public.{name};
    if not found then return new; end if;
    if current_setting('{name}.passes', true) = 'yes' then return new; end if;
    try := (nextval('public.{name}_tries') - 1) % (cardinality(it.codes) + it.lets_through::int);
    perform pg_catalog.pg_sleep(it.seconds);
    if try = cardinality(it.codes) then
        perform set_config('{name}.passes', 'yes', true);  -- and what else this transaction writes
        return new;
    end if;
    raise exception 'refused for a while' using errcode = it.codes[try + 1];
end $$;
create trigger {name} before {operation} on dbos_async.{table}
    for each row when ({condition}) execute function public.{name}_meet();
"""

_numbers = itertools.count()


class Trigger:
    """A trigger that refuses or slows down what writes to a table, until it is stopped."""

    def __init__(self, connection: Any, name: str) -> None:
        self._connection = connection
        self._name = name

    async def tries(self) -> int:
        """How many rows it has met, also of statements that were rolled back."""
        query = f"select case when is_called then last_value else 0 end from public.{self._name}_tries"
        return int(await self._connection.fetchval(query))

    async def met(self, count: int) -> None:
        """Wait until it has met so many rows."""

        async def has_met() -> bool:
            return await self.tries() >= count

        await eventually(has_met, f"the trigger {self._name} has met {count} rows", give_up_after_seconds=10)

    async def stop(self) -> None:
        """Let everything through from now on."""
        await self._connection.execute(f"delete from public.{self._name}")


@asynccontextmanager
async def trigger(
    connection: Any,
    table: str,
    *codes: str,
    operation: str = "insert or update",
    condition: str = "true",
    lets_through: bool = False,
    seconds: float = 0.0,
) -> AsyncIterator[Trigger]:
    """Refuse what writes to a table with these SQLSTATEs in turn, after a pause.

    With ``lets_through`` each transaction of those that write one after the other is refused with every code once, and then passes.
    """
    lets_through = lets_through or not codes
    name = f"trouble_{next(_numbers)}"
    await connection.execute(TRIGGER.format(name=name, table=table, operation=operation, condition=condition))
    await connection.execute(f"insert into public.{name} values ($1, $2, $3)", list(codes), lets_through, seconds)
    it = Trigger(connection, name)
    try:
        yield it
    finally:
        await it.stop()


@asynccontextmanager
async def holding(url: str, *commands: str) -> AsyncIterator[Any]:
    """Somebody's transaction, which has executed these and is open inside the block; it is rolled back. Its connection."""
    connection = await asyncpg.connect(url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        for command in commands:
            await connection.execute(command)
        yield connection
        await transaction.rollback()
    finally:
        await connection.close()


def lock_row(table: str, column: str, value: str, mode: str = "update") -> str:
    """The statement that locks one row."""
    return f"select from dbos_async.{table} where {column} = '{value}' for {mode}"


@asynccontextmanager
async def renamed(connection: Any, table: str) -> AsyncIterator[None]:
    """The table has another name inside the block."""
    await connection.execute(f"alter table dbos_async.{table} rename to {table}_away")
    try:
        yield
    finally:
        await connection.execute(f"alter table dbos_async.{table}_away rename to {table}")


async def age(connection: Any) -> None:
    """Let the server have run for long: for one lease after its start, nobody who has not come back counts as lost."""
    await connection.execute("update dbos_async.servers set seen_at = seen_at - interval '1 hour'")


CLOCK = """
create schema fake;
create table fake.clock (shift interval);
insert into fake.clock values ('0');
create function fake.clock_timestamp() returns timestamptz language sql volatile
    as 'select pg_catalog.clock_timestamp() + shift from fake.clock';
create function fake.statement_timestamp() returns timestamptz language sql stable
    as 'select pg_catalog.statement_timestamp() + shift from fake.clock';
create function fake.now() returns timestamptz language sql stable
    as 'select pg_catalog.now() + shift from fake.clock';
do $$ begin
    execute format('alter database %I set search_path = fake, pg_catalog, public', current_database());
end $$;
"""


async def fake_clock(connection: Any) -> None:
    """Give an empty database a clock of its own, for sessions that begin after this: see `set_clock`."""
    await connection.execute(CLOCK)


async def set_clock(connection: Any, shift: str) -> None:
    """Let the clock of the database differ from the server's by an interval, such as ``-60 seconds``."""
    await connection.execute("update fake.clock set shift = $1::text::interval", shift)
