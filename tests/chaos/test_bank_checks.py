"""Whether the checks of the bank find what is wrong: a small bank has worked without any fault, and then its books are spoiled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient
from tests.chaos.bank import TABLES, use_sessions
from tests.chaos.bank_checks import ClerkCheck, Reader, check_books
from tests.chaos.banking import Bank, make_transfers
from tests.chaos.direct import Direct
from tests.chaos.facts import PREPARE, Tally

SEED = 21
CLERKS_IN_ALL = 12

ENTER = "insert into bank.entries (transfer, account, cents, token)"
A_WITHDRAWAL = "(select min(number) from bank.entries where cents < 0)"

SPOIL = {
    "a balance": ("update bank.accounts set cents = cents + 1 where id = 3", "account 3 has"),
    "money of nobody": (
        f"{ENTER} values ('clerk 0/99', 3, 5, 't'); update bank.accounts set cents = cents + 5 where id = 3",
        "began with 8000 cents and has 8005",
    ),
    "no row for a withdrawal": (f"delete from bank.entries where number = {A_WITHDRAWAL}", "and entered are"),
    "a deposit twice": (
        f"{ENTER} select e.transfer, account, cents, e.token from bank.entries as e join bank.receipts using (token) limit 1",
        "has 1 withdrawals and 2 deposits",
    ),
    "no record for rows": (
        f"delete from dbos_async.steps where output #>> '{{}}' = (select token from bank.entries where number = {A_WITHDRAWAL})",
        "has records of",
    ),
    "rows of another attempt than the record": (
        f"update bank.entries set token = 'another' where number = {A_WITHDRAWAL}",
        "is entered by another",
    ),
    "rows of a failure": (
        f"{ENTER} select workflow_id || '/' || (number - 1), 0, 0, 't' from dbos_async.steps where error is not null limit 1",
        "has failed with",
    ),
    "messages lost": (
        "delete from dbos_async.messages where topic = 'deposited'",
        "and stored are",
    ),
    "a receipt twice": ("insert into bank.receipts select * from bank.receipts limit 1", "that are not those"),
    "no workflow for a receipt": (
        "delete from dbos_async.workflows where id in (select workflow_id from bank.receipts)",
        "workflows have written",
    ),
    "a deposit that a teller forgot": (
        "update dbos_async.workflows set output = to_json((output #>> '{}')::int - 1) where id = 'teller 1'",
        "teller 1 is SUCCESS, counted",
    ),
}
"""How to spoil the books, and what is to be said of that."""


@pytest.fixture
async def books(dbos: DBOS, database_url: str, connection: Any) -> AsyncIterator[Any]:
    """A connection to a bank that has worked without any fault."""
    await connection.execute(PREPARE)
    await connection.execute(TABLES)
    engine = use_sessions(database_url)
    direct, tally, clerks = Direct(database_url), Tally(), iter(range(CLERKS_IN_ALL))
    async with DBOSClient(database_url) as client:
        await Bank(direct, SEED, tally).trade(client, lambda: next(clerks, None) is None)
    assert tally.violations == []
    assert tally.operations["clerk"] == CLERKS_IN_ALL
    assert tally.operations["generation of a teller"] > 3
    yield connection
    await direct.close()
    await engine.dispose()


async def judge(reader: Reader) -> list[str]:
    clerks = {f"clerk {number}": make_transfers(SEED, f"clerk {number}") for number in range(CLERKS_IN_ALL)}
    violations, _ = await check_books(reader, {each["id"]: each for transfers in clerks.values() for each in transfers})
    for one, transfers in clerks.items():
        check = ClerkCheck(reader, one, transfers)
        await check.check()
        violations += check.violations
    return violations


async def test_t1_t2_the_books_of_a_bank_are_right_and_whatever_is_spoiled_in_them_is_found(books: Any) -> None:
    assert await judge(books) == []
    found: dict[str, list[str]] = {}
    for what, (statement, _) in SPOIL.items():
        transaction = books.transaction()
        await transaction.start()
        await books.execute("set local session_replication_role = replica")  # No trigger stops what is planted.
        await books.execute(statement)
        found[what] = await judge(books)
        await transaction.rollback()
    missed = {what for what, (_, sentence) in SPOIL.items() if not any(sentence in each for each in found[what])}
    assert not missed, {what: found[what] for what in missed}
