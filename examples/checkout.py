"""A checkout that survives being killed: a workflow, a customer, and a payment provider, all in one process.

    python examples/checkout.py            run an order from beginning to end (no server needed)
    python examples/checkout.py --crash    the same, but kill -9 this process once the payment page is out;
                                           run it again, and the order goes on where it was

The order is a workflow: it says its payment id by an event, waits for the payment as a message, and writes its progress
to a stream. Its steps are the side effects. What it does in the shop's own tables is a transaction: one commit with the
record of the step. Each runs once over both runs of the program, since what was recorded is not repeated.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

from dbos_async import DBOS, SetWorkflowID

PAYMENT_ID, PAYMENT_STATUS, PROGRESS = "payment_id", "payment_status", "progress"

COLOURS = {"order": 36, "shop": 35, "customer": 33, "payments": 32, "program": 90}


def say(who: str, what: str) -> None:
    """One line of the timeline: when, who, what."""
    name = f"{who:>9}"
    if sys.stdout.isatty():
        name = f"\033[{COLOURS[who]}m{name}\033[0m"
    print(f"  {datetime.now():%H:%M:%S.%f}"[:-3] + f"  {name}  {what}", flush=True)


# ── The side effects: steps ──────────────────────────────────────────────────────────────────────────────────────────


TABLES = """
    create table if not exists orders (id text primary key, item text not null);
    create table if not exists stock (item text primary key, pieces integer not null);
"""


@DBOS.transaction()
async def reserve(connection: asyncpg.Connection[Any], order_id: str, item: str) -> int:
    """Take one from the shelf, and write the order down."""
    say("shop", f"✱ reserves a {item}")
    await connection.execute(TABLES)
    await connection.execute("insert into stock values ($1, 42) on conflict do nothing", item)
    await connection.execute("insert into orders values ($1, $2)", order_id, item)
    return int(await connection.fetchval("update stock set pieces = pieces - 1 where item = $1 returning pieces", item))


@DBOS.step()
async def open_payment(order_id: str, cents: int) -> str:
    """Ask the payment provider for a payment page."""
    say("payments", f"✱ opens a payment of {cents / 100:.2f} € for {order_id}")
    return f"pay-{order_id}"


@DBOS.step()
async def ship(item: str) -> str:
    """Hand it to the parcel service."""
    say("shop", f"✱ ships the {item}")
    return "PARCEL-0815"


# ── The order: a workflow ────────────────────────────────────────────────────────────────────────────────────────────


@DBOS.workflow()
async def checkout(item: str, cents: int) -> str:
    """Sell one item."""
    order_id = str(DBOS.workflow_id)
    await DBOS.write_stream(PROGRESS, "order received")
    left = await reserve(order_id, item)
    await DBOS.write_stream(PROGRESS, f"{item} reserved, {left} left on the shelf")

    payment_id = await open_payment(order_id, cents)
    await DBOS.set_event(PAYMENT_ID, payment_id)
    await DBOS.write_stream(PROGRESS, "waiting for the payment")

    payment_status = await DBOS.recv(PAYMENT_STATUS, timeout_seconds=300)
    if payment_status != "paid":
        await DBOS.write_stream(PROGRESS, "no payment, order cancelled")
        return "cancelled"

    await DBOS.write_stream(PROGRESS, "paid")
    parcel = await ship(item)
    await DBOS.write_stream(PROGRESS, f"shipped as {parcel}")
    return "completed"


# ── The world around it ──────────────────────────────────────────────────────────────────────────────────────────────


async def follow(order_id: str) -> None:
    """Show the order's progress, as a web page would."""
    async for line in DBOS.read_stream(order_id, PROGRESS):
        say("order", str(line))


async def pay(order_id: str, crash: bool) -> None:
    """The customer gets the payment page and pays; the provider's webhook tells the order."""
    payment_id = await DBOS.get_event(order_id, PAYMENT_ID)
    say("customer", f"sees the payment page {payment_id}")
    if crash:
        await asyncio.sleep(0.3)
        say("program", "kill -9! Run it again without --crash, and the order goes on.")
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.7)
    say("customer", "pays")
    await DBOS.send(order_id, "paid", PAYMENT_STATUS, idempotency_key=payment_id)


async def main() -> None:
    """Run one order to its end."""
    crash = "--crash" in sys.argv[1:]
    note = Path(".dbos_async") / "order-id"
    async with DBOS(executor_id="checkout-example"):
        order_id = note.read_text() if note.exists() else f"order-{datetime.now():%d%H%M%S}"
        note.parent.mkdir(exist_ok=True)
        note.write_text(order_id)

        print(f"\n  A widget for 19.90 €: {order_id}\n")
        if await DBOS.list_workflows(id_prefix=order_id):
            steps = len(await DBOS.list_workflow_steps(order_id))
            say(
                "program",
                f"this order was under way when the program was killed: {steps} steps are recorded, it goes on",
            )
        with SetWorkflowID(order_id):
            handle = await DBOS.start_workflow(checkout, "widget", 1990)

        async with asyncio.TaskGroup() as group:
            group.create_task(follow(order_id))
            group.create_task(pay(order_id, crash))
        result = await handle.get_result()
        say("program", f"the order is {result}")
        note.unlink()
        print()


if __name__ == "__main__":
    asyncio.run(main())
