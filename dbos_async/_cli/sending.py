"""``dbos-async send`` and ``ask``."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from dbos_async._cli.arguments import pairs_of, value_of
from dbos_async._cli.output import note, write, write_json
from dbos_async._cli.session import Json, Url, connected, reported, run
from dbos_async._cli.texts import json_text, safe, seconds_of
from dbos_async.keys import Question

Destination = Annotated[str, typer.Argument(metavar="ID", help="The workflow.")]
Value = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="VALUE", help="A text, JSON, fields (status=paid amount:=10), or - for JSON from standard input."
    ),
]
Key = Annotated[
    str | None, typer.Option("--key", "-k", help="The idempotency key: sent again with it, it counts once.")
]

PANEL: Final = "Talk to workflows"


def add_to(app: typer.Typer) -> None:
    """Register ``send`` and ``ask``."""
    app.command("send", rich_help_panel=PANEL)(reported(send))
    app.command("ask", rich_help_panel=PANEL)(reported(ask))


def send(
    workflow_id: Destination,
    value: Value = None,
    topic: Annotated[str | None, typer.Option("--topic", "-t", help="The topic (default: none)")] = None,
    key: Key = None,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="A header: name=text.")] = None,
    delay: Annotated[
        str | None, typer.Option("--delay", help="It can be received so long from now (30s, 10m).")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send a message to a workflow. When this ends, the message is stored."""

    message = value_of(value or [], "The message")
    headers = pairs_of(header, "--header")

    async def work() -> None:
        seconds = None if delay is None else seconds_of(delay, "--delay")
        async with connected(url) as client:
            is_live = await client.send(
                workflow_id, message, topic, idempotency_key=key, headers=headers, delay_seconds=seconds
            )
        if as_json:
            write_json({"workflow_id": workflow_id, "topic": topic, "destination_has_ended": not is_live})
        else:
            write(f"sent to {safe(workflow_id)}")
        if not is_live:
            note(
                f"The workflow {safe(repr(workflow_id))} has ended: the message is stored, and nobody will receive it."
            )

    run(work())


def ask(
    workflow_id: Destination,
    topic: Annotated[str, typer.Option("--topic", "-t", help="The name of the question.")],
    value: Value = None,
    key: Key = None,
    timeout: Annotated[str, typer.Option("--timeout", help="Wait for the answer at most so long.")] = "60s",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Ask a workflow a question, and print its answer."""

    request = value_of(value or [], "The question")

    async def work() -> None:
        seconds = seconds_of(timeout, "--timeout")
        question: Question[Any, Any] = Question(topic, Any, Any)
        async with connected(url) as client:
            answer = await client.ask(workflow_id, question, request, timeout_seconds=seconds, idempotency_key=key)
        if isinstance(answer, str) and not as_json:
            write(safe(answer))
        else:
            write(json_text(answer, indent=2))

    run(work())
