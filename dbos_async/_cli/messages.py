"""``dbos-async messages list · show · redeliver``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from dbos_async._checks import MAX_INT
from dbos_async._cli.output import Column, console, note, show, table, write, write_json
from dbos_async._cli.session import Json, Url, connected, database_of, reported, run
from dbos_async._cli.texts import age, brief_json, json_text, safe
from dbos_async._messaging.mailbox import STATUSES
from dbos_async._operations.find_message import find_message
from dbos_async.envelope import Message

MessageId = Annotated[str, typer.Argument(metavar="MESSAGE", help="The id of the message.")]

COLUMNS: Final = (
    Column("MESSAGE", folds=True),
    Column("TO", max_width=40),
    Column("TOPIC", max_width=24),
    Column("STATUS"),
    Column("AGE", justify="right"),
    Column("FROM", from_width=110, max_width=40),
)
VALUE: Final = Column("VALUE", max_width=60)
STYLES: Final = {"waiting": "cyan", "received": "green", "rejected": "bold red", "delayed": "blue"}


def complete_status(incomplete: str) -> list[str]:
    """The statuses that begin so."""
    return [each for each in STATUSES if each.startswith(incomplete)]


def add_to(app: typer.Typer) -> None:
    """Register the group."""
    group = typer.Typer(no_args_is_help=True, help="The messages of workflows.")
    group.command("list")(reported(list_messages))
    group.command("show")(reported(show_message))
    group.command("redeliver")(reported(redeliver))
    app.add_typer(group, name="messages", rich_help_panel="Look at the application")


def list_messages(
    workflow_id: Annotated[str | None, typer.Argument(metavar="ID", help="The workflow (default: all)")] = None,
    topic: Annotated[str | None, typer.Option("--topic", "-t", help="Those of this topic.")] = None,
    status: Annotated[
        str | None,
        typer.Option("--status", "-s", autocompletion=complete_status, help="waiting, received, rejected or delayed."),
    ] = None,
    newest: Annotated[bool, typer.Option("--newest", help="The newest first.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, max=MAX_INT, help="How many at most.")] = 100,
    payloads: Annotated[bool, typer.Option("--payloads", help="With their values.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the messages of one workflow, or those of all that are rejected (or, with --status waiting, that wait)."""

    async def work() -> None:
        wanted = (status or "rejected") if workflow_id is None else status
        async with connected(url) as client:
            found = await client.list_messages(
                workflow_id, topic=topic, status=wanted, newest_first=newest, limit=limit, payloads=payloads
            )
        if as_json:
            left_out = {"cursor"} if payloads else {"cursor", "payload"}
            write_json([one.model_dump(exclude=left_out) for one in found])
            return
        if found:
            show(_table(found, console().width, payloads=payloads))
        _note(len(found), limit, wanted)

    run(work())


def show_message(message_id: MessageId, url: Url = None, as_json: Json = False) -> None:
    """Print one message with its value, its headers and what became of it."""

    async def work() -> None:
        async with connected(url) as client:
            message = await find_message(database_of(client), message_id)
        if as_json:
            write_json(message.model_dump(exclude={"cursor"}))
        else:
            _print(message)

    run(work())


def redeliver(
    message_ids: Annotated[list[str], typer.Argument(metavar="MESSAGE", help="The ids of rejected messages.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Append a copy of a rejected message to its queue, so that the repaired code receives it."""

    async def work() -> None:
        async with connected(url) as client:
            for message_id in message_ids:
                await client.redeliver(message_id)
                if not as_json:
                    write(f"delivered again  {safe(message_id)}")
        if as_json:
            write_json([{"id": message_id, "redelivered": True} for message_id in message_ids])

    run(work())


def status_of(message: Message) -> str:
    """What became of a message, in one word."""
    if message.rejected is not None:
        return "rejected"
    if message.received_at is not None:
        return "received"
    return "waiting" if message.due_at is None else "delayed"


def _note(count: int, limit: int, status: str | None) -> None:
    if count == 0:
        note(f"There are no {status} messages." if status else "There are no messages.")
    elif count == limit:
        note(f"The first {count} are shown: --limit {10 * limit} shows more, --newest the newest first.")


def _table(found: Sequence[Message], width: int, *, payloads: bool) -> Any:
    now = datetime.now(UTC)
    rows: list[tuple[str | Text, ...]] = []
    for one in found:
        status = status_of(one)
        rows.append(
            (
                str(one.id), one.destination_id, one.topic or "", Text(status, STYLES[status]), age(one.sent_at, now),
                one.sender_id or "", *([brief_json(one.payload, 60)] if payloads else ()),
            )
        )  # fmt: skip
    return table((*COLUMNS, VALUE) if payloads else COLUMNS, rows, width)


def _print(message: Message) -> None:
    out = console()
    status = status_of(message)
    lines: list[tuple[str, str]] = [
        ("to", message.destination_id),
        ("topic", message.topic or "(none)"),
        ("from", message.sender_id or "outside of workflows"),
        ("sent", f"{message.sent_at:%Y-%m-%d %H:%M:%S} UTC, {age(message.sent_at)} ago"),
    ]
    if message.due_at is not None:
        lines.append(("due", f"{message.due_at:%Y-%m-%d %H:%M:%S} UTC"))
    if message.received_at is not None:
        lines.append(("received", f"{message.received_at:%Y-%m-%d %H:%M:%S} UTC"))
    if message.answered_at is not None:
        lines.append(("answered", f"{message.answered_at:%Y-%m-%d %H:%M:%S} UTC"))
    if message.idempotency_key is not None:
        lines.append(("key", message.idempotency_key))
    lines += [("header", f"{name}={text}") for name, text in message.headers.items()]
    out.print(Text.assemble((str(message.id), "bold"), "  ", (status, STYLES[status])))
    for name, text in lines:
        out.print(Text.assemble((f"{name:>9}  ", "dim"), safe(text)), soft_wrap=True)
    if message.rejected is not None:
        out.print(Text.assemble((f"{'rejected':>9}  ", "dim"), (safe(message.rejected), "red")), soft_wrap=True)
        out.print(Text(f"           dbos-async messages redeliver {message.id}", "dim"), soft_wrap=True)
    write(json_text(message.payload, indent=2))
