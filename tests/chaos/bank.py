"""The workflows of the fault suite's bank: its money is moved by transactions, and by the messages that they send (T1).

A clerk withdraws, and by the same commit tells the teller of the other account. The teller deposits; by the same commit it tells
the clerk, and starts a workflow that writes a receipt. Every few deposits a teller continues as new (T2). Whatever the body of a
transaction does carries a token that it has made, so what belongs to one commit has the same token.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import asyncpg
from sqlalchemy import BigInteger, Identity
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

from dbos_async import DBOS

ACCOUNTS = 8
CENTS_EACH = 1000
TELLERS = 3
GENERATION = 7
"""So many deposits a teller makes before it continues as new."""
RETRY_SECONDS = 0.1
CLOSE = "close"

TABLES = f"""
    create schema bank;
    create table bank.accounts (id int primary key, cents bigint not null check (cents >= 0));
    insert into bank.accounts select n, {CENTS_EACH} from generate_series(0, {ACCOUNTS - 1}) as n;
    -- Nothing here is unique: what happens twice is to be seen.
    create table bank.entries (
        number bigint generated always as identity primary key,
        transfer text not null, account int not null, cents bigint not null, token text not null);
    create index entries_transfer on bank.entries (transfer);
    create table bank.receipts (transfer text not null, token text not null, workflow_id text not null);
    grant usage on schema bank to public;
    grant select, insert, update on all tables in schema bank to public;
"""
MOVE = "update bank.accounts set cents = cents + $2 where id = $1"
ENTER = "insert into bank.entries (transfer, account, cents, token) values ($1, $2, $3, $4)"
WRITE_RECEIPT = "insert into bank.receipts (transfer, token, workflow_id) values ($1, $2, $3)"


Transfer = dict[str, Any]
"""What a clerk is to do: ``id``, ``source``, ``target``, ``cents``, and ``how``. That is ``asyncpg``, ``repeatable read``,
``serializable`` or ``sqlalchemy`` (how both transactions are made), ``one commit`` (there is only one, and no teller), or ``fails``
(the transaction does all it has to do, and raises).
"""


class Base(DeclarativeBase): ...


class Account(Base):
    __tablename__, __table_args__ = "accounts", {"schema": "bank"}
    id: Mapped[int] = mapped_column(primary_key=True)
    cents: Mapped[int] = mapped_column(BigInteger)


class Entry(Base):
    __tablename__, __table_args__ = "entries", {"schema": "bank"}
    number: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    transfer: Mapped[str]
    account: Mapped[int]
    cents: Mapped[int] = mapped_column(BigInteger)
    token: Mapped[str]


Sessions = async_sessionmaker()


def use_sessions(url: str, *, is_pooled: bool = False) -> AsyncEngine:
    """Let the transactions of SQLAlchemy go to this server, through a pooler as SQLAlchemy's page on asyncpg says."""
    pooled: dict[str, Any] = {
        "statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"sqlalchemy_{uuid4()}",
    }
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://")
        + ("?prepared_statement_cache_size=0" if is_pooled else ""),
        poolclass=NullPool if is_pooled else None,
        connect_args={
            "server_settings": {"application_name": "dbos_async"},  # The nemesis ends its sessions by this name.
            **(pooled if is_pooled else {}),
        },
    )
    Sessions.configure(bind=engine)
    return engine


def teller_of(account: int) -> str:
    """The workflow that deposits to this account."""
    return f"teller {account % TELLERS}"


async def change(target: Any, transfer: str, account: int, cents: int, token: str) -> None:
    """Change an account, and enter that, on a connection or in a session."""
    if isinstance(target, AsyncSession):
        found = await target.get_one(Account, account, with_for_update=True)
        found.cents += cents
        target.add(Entry(transfer=transfer, account=account, cents=cents, token=token))
    else:
        await target.execute(MOVE, account, cents)
        await target.execute(ENTER, transfer, account, cents, token)


async def withdraw(target: Any, transfer: Transfer) -> str:
    token = str(uuid4())
    await change(target, transfer["id"], transfer["source"], -transfer["cents"], token)
    await DBOS.send(teller_of(transfer["target"]), {**transfer, "clerk": DBOS.workflow_id}, "deposits")
    if transfer["how"] == "fails":
        raise ValueError(transfer["id"])
    return token


async def deposit(target: Any, transfer: Any) -> str:
    token = str(uuid4())
    await change(target, transfer["id"], transfer["target"], transfer["cents"], token)
    await DBOS.send(transfer["clerk"], {"id": transfer["id"], "token": token}, "deposited")
    await DBOS.start_workflow(receipt, transfer["id"], token)
    return token


@DBOS.transaction(name="move by one commit")
async def move(connection: asyncpg.Connection[Any], transfer: Transfer) -> str:
    """Both sides at once. Two of these may be a deadlock."""
    token = str(uuid4())
    await change(connection, transfer["id"], transfer["source"], -transfer["cents"], token)
    await change(connection, transfer["id"], transfer["target"], transfer["cents"], token)
    return token


WITHDRAW: dict[str, Any] = {
    "asyncpg": DBOS.transaction(name="withdraw")(withdraw),
    "fails": DBOS.transaction(name="withdraw and fail")(withdraw),
    "repeatable read": DBOS.transaction(name="withdraw, repeatable read", isolation="repeatable read")(withdraw),
    "serializable": DBOS.transaction(name="withdraw, serializable", isolation="serializable")(withdraw),
    "sqlalchemy": DBOS.transaction(Sessions, name="withdraw, session")(withdraw),
    "one commit": move,
}
DEPOSIT: dict[str, Any] = {
    "asyncpg": DBOS.transaction(name="deposit")(deposit),
    "repeatable read": DBOS.transaction(name="deposit, repeatable read", isolation="repeatable read")(deposit),
    "serializable": DBOS.transaction(name="deposit, serializable", isolation="serializable")(deposit),
    "sqlalchemy": DBOS.transaction(Sessions, name="deposit, session")(deposit),
}


@DBOS.workflow(name="bank clerk")
async def clerk(transfers: list[Transfer]) -> dict[str, Any]:
    """What was withdrawn by which token, and what came back of it, in order. A failed transaction leaves its transfer undone."""
    withdrawn: dict[str, str] = {}
    waits = 0
    for transfer in transfers:
        try:
            withdrawn[transfer["id"]] = await WITHDRAW[transfer["how"]](transfer)
        except Exception:
            continue
        waits += transfer["how"] != "one commit"
    deposited = [await DBOS.recv("deposited", timeout_seconds=None) for _ in range(waits)]
    return {"withdrawn": withdrawn, "deposited": deposited}


@DBOS.workflow(name="bank teller")
async def teller(handled: int) -> int:
    """Deposit what comes, in order, until the bank closes; how much that was in all generations."""
    for _ in range(GENERATION):
        transfer: Any = await DBOS.recv("deposits", timeout_seconds=None)
        if transfer == CLOSE:
            return handled
        await _insist(DEPOSIT[transfer["how"]], transfer)
        handled += 1
    await DBOS.continue_as_new(handled)


@DBOS.transaction(name="write a receipt")
async def write_receipt(connection: asyncpg.Connection[Any], transfer: str, token: str) -> None:
    await connection.execute(WRITE_RECEIPT, transfer, token, DBOS.workflow_id)


@DBOS.workflow(name="bank receipt")
async def receipt(transfer: str, token: str) -> None:
    await _insist(write_receipt, transfer, token)


async def _insist(transaction: Any, *arguments: Any) -> None:
    """Somebody who has renamed a table or refuses a row must not keep the bank from its work for good."""
    while True:
        try:
            await transaction(*arguments)
        except Exception:
            await DBOS.sleep(RETRY_SECONDS)
        else:
            return
