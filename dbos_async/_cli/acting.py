"""``dbos-async workflows start · cancel · resume · fork · delete``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any

import typer

from dbos_async._cli.arguments import values_and_fields
from dbos_async._cli.choosing import Act, Children, DryRun, Family, Ids, Options, Yes, carry_out, choice_of
from dbos_async._cli.exits import CommandError, ExitCode
from dbos_async._cli.filters import Filters, takes_filters
from dbos_async._cli.output import note, write, write_json
from dbos_async._cli.session import Json, Url, connected, database_of, reported, run
from dbos_async._cli.texts import error_line, json_text, safe, seconds_of
from dbos_async._runs.start_options import SetApplicationVersion, SetStartDelay, SetWorkflowID, SetWorkflowTimeout
from dbos_async._workflows.delete import ENDED, DeleteOutcome, would_delete
from dbos_async._workflows.families import CancelOutcome, descendants_of
from dbos_async._workflows.handle import WorkflowHandle
from dbos_async._workflows.status import PARKED
from dbos_async.client import DBOSClient
from dbos_async.errors import ResultTimeoutError

NewId = Annotated[str | None, typer.Option("--id", help="The id of the new workflow (default: a new one)")]
Version = Annotated[str | None, typer.Option("--version", help="The application version that may run it.")]
WaitFor = Annotated[bool, typer.Option("--wait", help="Wait for its end, and print what it returned.")]
Timeout = Annotated[str | None, typer.Option("--timeout", help="Wait at most so long (30s, 5m).")]


def add_to(app: typer.Typer) -> None:
    """Register the commands that change workflows."""
    app.command("start")(reported(start))
    app.command("cancel")(reported(takes_filters(cancel)))
    app.command("resume")(reported(takes_filters(resume)))
    app.command("fork")(reported(fork))
    app.command("delete")(reported(takes_filters(delete)))


def start(
    name: Annotated[str, typer.Argument(help="The registered name of the workflow.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="Values by position (widget 1990), by name (item=widget cents:=1990), or - for JSON from standard input."
        ),
    ] = None,
    workflow_id: NewId = None,
    version: Version = None,
    delay: Annotated[str | None, typer.Option("--delay", help="Start so long from now (10m, 1h).")] = None,
    deadline: Annotated[str | None, typer.Option("--deadline", help="Cancel it so long after its start (1h).")] = None,
    wait: WaitFor = False,
    timeout: Timeout = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Start a workflow by its name. An executor that knows it runs it."""

    values, fields = values_and_fields(arguments or [])
    if "-" in (arguments or []) and len(values) == 1:
        values, fields = _from_stdin(values[0], fields)

    async def work() -> None:
        seconds = None if timeout is None else seconds_of(timeout, "--timeout")
        with ExitStack() as options:
            if workflow_id is not None:
                options.enter_context(SetWorkflowID(workflow_id))
            if version is not None:
                options.enter_context(SetApplicationVersion(version))
            if delay is not None:
                options.enter_context(SetStartDelay(seconds_of(delay, "--delay")))
            if deadline is not None:
                options.enter_context(SetWorkflowTimeout(seconds_of(deadline, "--deadline")))
            async with connected(url) as client:
                handle = await client.start_workflow(name, *values, **fields)
                await _report(handle, seconds, wait=wait or timeout is not None, as_json=as_json)

    run(work())


def cancel(
    filters: Filters,
    ids: Ids = None,
    children: Children = False,
    cleanup: Annotated[str | None, typer.Option("--cleanup", help="Give them so long to clean up (30s).")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Cancel workflows, by their ids or by a filter. They end within a second, or have cleaned up, and can be resumed."""
    seconds = None if cleanup is None else seconds_of(cleanup, "--cleanup")
    family = Family(_would_cancel, partial(_cancel_families, cleanup_seconds=seconds)) if children else None
    one = partial(_cancel, cleanup_seconds=seconds)
    done = "cancelled" if seconds is None else "cancelled, with time to clean up"
    act = Act("cancel", done, ("PENDING", "DELAYED", *PARKED), one, family=family)
    carry_out(act, choice_of(ids, filters), Options(dry_run, yes, as_json), url)


def resume(
    filters: Filters,
    ids: Ids = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Let cancelled or parked workflows go on after their last recorded step."""
    act = Act("resume", "resumed", ("CANCELLED", *PARKED), _resume)
    carry_out(act, choice_of(ids, filters), Options(dry_run, yes, as_json), url)


def delete(
    filters: Filters,
    ids: Ids = None,
    children: Children = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Remove workflows that have ended, with their steps, messages, events and streams. Nothing brings them back."""
    family = Family(_would_delete, _delete_families) if children else None
    act = Act("delete", "deleted", ENDED, _delete, always_asks=True, family=family)
    carry_out(act, choice_of(ids, filters), Options(dry_run, yes, as_json), url)


def fork(
    workflow_id: Annotated[str, typer.Argument(metavar="ID", help="The workflow to copy.")],
    step: Annotated[str, typer.Argument(help="The copy goes on from this step: 1 runs everything again.")],
    new_id: NewId = None,
    version: Version = None,
    wait: WaitFor = False,
    timeout: Timeout = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Start a copy of a workflow that goes on from one of its steps."""

    async def work() -> None:
        seconds = None if timeout is None else seconds_of(timeout, "--timeout")
        with ExitStack() as options:
            if new_id is not None:
                options.enter_context(SetWorkflowID(new_id))
            async with connected(url) as client:
                handle = await client.fork_workflow(workflow_id, step, application_version=version)
                await _report(handle, seconds, wait=wait or timeout is not None, as_json=as_json)

    run(work())


async def _cancel(client: DBOSClient, workflow_id: str, *, cleanup_seconds: float | None) -> str | None:
    has_ended_it = await client.cancel_workflow(workflow_id, cleanup_seconds=cleanup_seconds)
    return None if has_ended_it else "it had ended before"


async def _resume(client: DBOSClient, workflow_id: str) -> str | None:
    status = (await (await client.retrieve_workflow(workflow_id)).get_status()).status
    if status in ("SUCCESS", "ERROR"):
        return f"it has ended in {status}: 'dbos-async workflows fork' makes a copy that runs again"
    if status in ("PENDING", "DELAYED"):
        return f"it is {status} and needs no resuming"
    await client.resume_workflow(workflow_id)
    return None


async def _delete(client: DBOSClient, workflow_id: str) -> str | None:
    await client.delete_workflow(workflow_id)
    return None


async def _would_cancel(client: DBOSClient, ids: Sequence[str]) -> list[str]:
    below = await descendants_of(database_of(client), ids)
    return list(dict.fromkeys([*ids, *(one for one, (_, has_ended) in below.items() if not has_ended)]))


async def _cancel_families(
    client: DBOSClient, ids: Sequence[str], *, cleanup_seconds: float | None
) -> dict[str, CancelOutcome]:
    return await client.cancel_workflows(ids, children=True, cleanup_seconds=cleanup_seconds)


async def _would_delete(client: DBOSClient, ids: Sequence[str]) -> list[str]:
    return await would_delete(database_of(client), ids)


async def _delete_families(client: DBOSClient, ids: Sequence[str]) -> dict[str, DeleteOutcome]:
    return await client.delete_workflows(ids, children=True)


def _from_stdin(value: Any, fields: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """A JSON array is the arguments by position, an object those by name."""
    if isinstance(value, dict):
        return [], {**value, **fields}
    return (value if isinstance(value, list) else [value]), fields


async def _report(handle: WorkflowHandle[Any], seconds: float | None, *, wait: bool, as_json: bool) -> None:
    if not wait:
        if as_json:
            write_json({"workflow_id": handle.workflow_id})
        else:
            write(safe(handle.workflow_id))
        return
    if not as_json:
        note(f"started {safe(handle.workflow_id)}")
    try:
        await handle.get_result(timeout_seconds=seconds)
    except ResultTimeoutError as error:
        if (await handle.get_status()).ended_at is None:
            raise CommandError(str(error), ExitCode.NO_ANSWER) from None
    except Exception as error:  # whatever the workflow has raised; its status says how it ended
        if (await handle.get_status()).status == "PENDING":
            raise error from None
    status = await handle.get_status()
    if as_json:
        write_json(status.model_dump(include={"workflow_id", "status", "output", "error"}))
    elif status.status == "SUCCESS":
        write(json_text(status.output, indent=2))
    if status.status != "SUCCESS":
        why = "" if status.error is None else f" in {error_line(status.error)}"
        raise CommandError(
            f"The workflow {handle.workflow_id!r} has not succeeded: it is {status.status}{why}.", ExitCode.FAILED
        )
