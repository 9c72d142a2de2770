"""``dbos-async workflows show``."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Final

import typer
from rich.live import Live
from rich.text import Text

from dbos_async._checks import MAX_INT
from dbos_async._cli.description import described
from dbos_async._cli.output import console, status_text, write_json, write_json_line
from dbos_async._cli.output import show as print_it
from dbos_async._cli.session import Json, Url, connected, reported, run
from dbos_async._cli.step_words import lines_of, took, words_of
from dbos_async._operations.description import DescribedStep, WorkflowDescription
from dbos_async._workflows.status import PARKED
from dbos_async.client import DBOSClient

LOOK_SECONDS: Final = 0.5
FOLLOWED_STEPS: Final = 200


def add_to(app: typer.Typer) -> None:
    """Register ``show``."""
    app.command("show")(reported(show))


def show(
    workflow_id: Annotated[str, typer.Argument(metavar="ID", help="The workflow.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the workflow ends or is parked.")] = False,
    payloads: Annotated[bool, typer.Option("--payloads", help="Print values in full, and tracebacks.")] = False,
    steps: Annotated[
        int, typer.Option("--steps", min=1, max=MAX_INT, help="How many steps, from the last one back.")
    ] = 50,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show one workflow as a conversation: what it waits for, and its steps, messages, events and streams."""

    async def work() -> None:
        async with connected(url) as client:
            if not follow:
                found = await client.describe_workflow(workflow_id, limit=steps)
                if as_json:
                    write_json(found.model_dump(exclude={"cursor": True, "messages": {"__all__": {"cursor"}}}))
                else:
                    print_it(described(found, console().width, steps=steps, payloads=payloads))
            elif sys.stdout.isatty() and not as_json:
                await _follow_on_terminal(client, workflow_id, steps, payloads=payloads)
            else:
                await _follow_in_lines(client, workflow_id, as_json=as_json)

    run(work())


def _is_over(found: WorkflowDescription) -> bool:
    return found.status.ended_at is not None or found.status.status in PARKED


async def _follow_on_terminal(client: DBOSClient, workflow_id: str, steps: int, *, payloads: bool) -> None:
    """Draw it in its place; the last steps that fit."""
    out = console()
    with Live(console=out, auto_refresh=False, transient=True, vertical_overflow="crop") as live:
        while True:
            fitting = max(min(steps, out.height - 16), 5)
            found = await client.describe_workflow(workflow_id, limit=fitting)
            if _is_over(found):
                break
            live.update(described(found, out.width, steps=steps), refresh=True)
            await asyncio.sleep(LOOK_SECONDS)
    found = await client.describe_workflow(workflow_id, limit=steps)
    out.print(described(found, out.width, steps=steps, payloads=payloads))


async def _follow_in_lines(client: DBOSClient, workflow_id: str, *, as_json: bool) -> None:
    """One line for each step once it is recorded, and one for the end."""
    told: set[str] = set()
    is_open: set[str] = set()
    while True:
        found, steps = await _since(client, workflow_id, told, is_open)
        for step in steps:
            if step.completed_at is None:
                is_open.add(step.step)
            elif step.step not in told:
                is_open.discard(step.step)
                told.add(step.step)
                _tell(step, as_json=as_json)
        if _is_over(found):
            if as_json:
                write_json_line(found.status.model_dump(exclude={"cursor"}))
            else:
                print_it(status_text(found.status.status))
            return
        await asyncio.sleep(LOOK_SECONDS)


async def _since(
    client: DBOSClient, workflow_id: str, told: set[str], is_open: set[str]
) -> tuple[WorkflowDescription, list[DescribedStep]]:
    """The description, and its steps back to where all are told. The first time these are the last ones."""
    found = await client.describe_workflow(workflow_id, limit=FOLLOWED_STEPS)
    steps, cursor, is_first = list(found.steps), found.cursor, not told and not is_open
    while cursor is not None and not is_first:
        seen = {one.step for one in steps}
        if steps[0].step in told and is_open <= seen:
            break
        page = await client.describe_workflow(workflow_id, limit=FOLLOWED_STEPS, before=cursor)
        steps, cursor = [*page.steps, *steps], page.cursor
    return found, steps


def _tell(step: DescribedStep, *, as_json: bool) -> None:
    if as_json:
        write_json_line(step)
        return
    (line,) = lines_of([step])
    at = (step.completed_at or step.started_at).astimezone()
    text = words_of(line, console().width - 24)
    print_it(
        Text.assemble(f"{at:%H:%M:%S}  {step.step:>4}  {took(line):>8}  ", text, no_wrap=True, overflow="ellipsis")
    )
