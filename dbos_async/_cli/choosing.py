"""``cancel``, ``resume`` and ``delete``: many workflows, by their ids or by a filter."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from rich.progress import Progress

from dbos_async._cli.exits import CommandError, ExitCode, code_of
from dbos_async._cli.filters import Filters, find_all
from dbos_async._cli.output import console, note, write, write_json
from dbos_async._cli.session import connected, run
from dbos_async._cli.texts import safe
from dbos_async._logs import counted
from dbos_async.client import DBOSClient
from dbos_async.errors import DatabaseUnavailableError, DBOSError, WorkflowNotFoundError

AT_A_TIME: Final = 20
SHOWN: Final = 20
"""So many workflows are named one by one on a terminal."""

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="The workflows; - reads their ids from standard input.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say which workflows it would be.")]
Children = Annotated[
    bool, typer.Option("--children", help="Also all that they have started, and what that has started.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True)
class Act:
    """What a command does with each workflow."""

    verb: str
    done: str
    statuses: tuple[str, ...]
    """Those on which it can be done: a filter means no others."""
    act: Callable[[DBOSClient, str], Awaitable[str | None]]
    """Returns ``None`` when it has done it, else why there was nothing to do; raises what stands against it."""
    always_asks: bool = False
    family: Family | None = None
    """How it is done with all that they have started, if that is wanted."""


@dataclass(frozen=True)
class Family:
    """What a command does with workflows and all that they have started."""

    find: Callable[[DBOSClient, Sequence[str]], Awaitable[list[str]]]
    """With which workflows it would be done."""
    act: Callable[[DBOSClient, Sequence[str]], Awaitable[Mapping[str, str]]]
    """What became of each."""


@dataclass(frozen=True)
class Choice:
    """Which workflows the user wants."""

    ids: Sequence[str]
    filters: Filters

    def check(self, verb: str) -> None:
        """Refuse what nobody can have meant."""
        if self.ids and not self.filters.is_empty:
            raise CommandError(
                f"Name the workflows to {verb} by their ids or by a filter, and not both.", ExitCode.USAGE
            )
        if not self.ids and self.filters.is_empty:
            raise CommandError(
                f"Which workflows? Name those to {verb} by their ids, or by a filter such as --name.", ExitCode.USAGE
            )
        self.filters.arguments()

    async def find(self, client: DBOSClient, statuses: tuple[str, ...]) -> list[str]:
        """Their ids."""
        if self.ids:
            return list(dict.fromkeys(self.ids))
        found = find_all(client, self.filters, otherwise=statuses)
        return [one.workflow_id async for one in found if one.status in statuses]


@dataclass(frozen=True)
class Options:
    """How a command goes about it."""

    dry_run: bool
    yes: bool
    as_json: bool


def choice_of(ids: Sequence[str] | None, filters: Filters) -> Choice:
    """What the command line chooses. ``-`` stands for the lines of standard input."""
    found: list[str] = []
    for one in ids or ():
        found += [line for line in sys.stdin.read().splitlines() if line] if one == "-" else [one]
    if ids and not found:
        raise CommandError("Standard input has no ids.", ExitCode.USAGE)
    return Choice(found, filters)


def carry_out(act: Act, choice: Choice, options: Options, url: str | None) -> None:
    """Do it, or say what would be done."""
    choice.check(act.verb)
    asks = (act.always_asks or not choice.ids) and not options.yes and not options.dry_run

    async def work(ids: list[str] | None) -> list[str]:
        async with connected(url) as client:
            found = await choice.find(client, act.statuses) if ids is None else ids
            if options.dry_run or (asks and ids is None):
                meant[:] = found if act.family is None else await act.family.find(client, found)
            if options.dry_run:
                _say_what_would_be(act, meant, options)
            elif not found:
                note(f"No workflow to {act.verb}.")
                if options.as_json:
                    write_json([])
            elif ids is not None or not asks:
                _report(act, await (_each if act.family is None else _with_families)(client, act, found), options)
        return found

    meant: list[str] = []
    found = run(work(None))
    if asks and found:
        _ask(act, meant)
        run(work(found))


async def _each(client: DBOSClient, act: Act, ids: Sequence[str]) -> list[tuple[str, str | None, ExitCode]]:
    """Each id with what stood against it, and the exit code of that."""
    results: dict[str, tuple[str | None, ExitCode]] = {}
    lost: list[DatabaseUnavailableError] = []
    waiting = iter(ids)

    async def worker(progress: Progress, task: Any) -> None:
        for one in waiting:
            try:
                results[one] = await act.act(client, one), ExitCode.DONE
            except DatabaseUnavailableError as error:
                lost.append(error)
            except DBOSError as error:
                results[one] = str(error), code_of(error)
            if lost:
                return  # nobody begins another one, and what is under way comes to its end
            progress.advance(task)

    err = console(stderr=True)
    with Progress(console=err, transient=True, disable=len(ids) <= SHOWN or not err.is_terminal) as progress:
        task = progress.add_task(f"{act.verb} {counted(len(ids), 'workflow')}", total=len(ids))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_A_TIME, len(ids))):
                group.create_task(worker(progress, task))
    if lost:
        done = sum(1 for why, _ in results.values() if why is None)
        raise CommandError(f"{act.done} {done} of {counted(len(ids), 'workflow')}, then: {lost[0]}")
    return [(one, *results[one]) for one in ids]


async def _with_families(client: DBOSClient, act: Act, ids: Sequence[str]) -> list[tuple[str, str | None, ExitCode]]:
    """Each id and each workflow that it has started, with what stood against it; not those that had ended anyway."""
    assert act.family is not None
    outcomes = await act.family.act(client, ids)
    results: list[tuple[str, str | None, ExitCode]] = []
    for one, outcome in outcomes.items():
        if outcome == act.done:
            results.append((one, None, ExitCode.DONE))
        elif outcome == "unknown":
            error = WorkflowNotFoundError(one)
            results.append((one, str(error), code_of(error)))
        elif outcome == "not ended":
            why = f"The workflow {one!r} stays: it has not ended, or one that it has started: cancel them with --children."
            results.append((one, why, ExitCode.NOT_NOW))
        elif one in ids:
            results.append((one, "it had ended before", ExitCode.DONE))
    return results


def _report(act: Act, results: Sequence[tuple[str, str | None, ExitCode]], options: Options) -> None:
    if options.as_json:
        write_json([{"workflow_id": one, act.done: why is None, "reason": why} for one, why, _ in results])
    else:
        done = sum(1 for _, why, _ in results if why is None)
        for one, why, _ in results:
            if why is None and len(results) <= SHOWN:
                write(f"{act.done}  {safe(one)}")
        for one, why, code in results:
            if why is not None and code == ExitCode.DONE:
                note(f"unchanged  {safe(one)}  {safe(why)}")
            elif why is not None:
                note(safe(why), "red")
        if len(results) > SHOWN:
            write(f"{act.done} {counted(done, 'workflow')} of {len(results)}")
    worst = max((code for _, _, code in results), default=ExitCode.DONE)
    if worst != ExitCode.DONE:
        raise typer.Exit(worst)


def _say_what_would_be(act: Act, ids: Sequence[str], options: Options) -> None:
    if options.as_json:
        write_json({"dry_run": True, "workflow_ids": list(ids)})
        return
    for one in ids:
        write(safe(one))
    note(f"It would {act.verb} {counted(len(ids), 'workflow')}. Nothing was changed.")


def _ask(act: Act, ids: Sequence[str]) -> None:
    what = f"{act.verb} {counted(len(ids), 'workflow')}"
    if not sys.stdin.isatty():
        raise CommandError(
            f"It would {what}: without a terminal, say --yes (or look first, with --dry-run).", ExitCode.USAGE
        )
    for one in ids[:SHOWN]:
        note(f"  {safe(one)}")
    if len(ids) > SHOWN:
        note(f"  … and {len(ids) - SHOWN} more")
    if not typer.confirm(f"{what[0].upper()}{what[1:]}?", err=True):
        raise CommandError("Nothing was changed.")
