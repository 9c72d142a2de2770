"""The options that choose workflows, stated once for all commands that take them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final

import typer

from dbos_async._cli.exits import CommandError, ExitCode
from dbos_async._cli.texts import moment_of
from dbos_async._logs import shown
from dbos_async._workflows.delete import ENDED
from dbos_async._workflows.status import PARKED, STATUSES, WorkflowStatus
from dbos_async.client import DBOSClient

PAGE: Final = 500
GROUPS: Final = {"PARKED": PARKED, "ENDED": ENDED, "FAILED": ("ERROR", *PARKED)}
"""Words that stand for several statuses."""


def complete_status(incomplete: str) -> list[str]:
    """The statuses that begin so."""
    return [each for each in (*STATUSES, *GROUPS) if each.startswith(incomplete.upper())]


@dataclass(frozen=True)
class Filters:
    """Which workflows: those that fit every option. An option that is given several times fits any of its values."""

    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status", "-s", autocompletion=complete_status,
            help=f"{', '.join(STATUSES)}; parked, ended or failed for several of them.",
        ),
    ] = None  # fmt: skip
    name: Annotated[list[str] | None, typer.Option("--name", "-n", help="The registered name.")] = None
    prefix: Annotated[str | None, typer.Option("--prefix", help="What the id begins with.")] = None
    since: Annotated[
        str | None, typer.Option("--since", help="Created at most so long ago (15m, 1h, 2d), or since a time.")
    ] = None
    until: Annotated[str | None, typer.Option("--until", help="Created at least so long ago, or until a time.")] = None
    parent: Annotated[str | None, typer.Option("--parent", help="The id of the workflow that started it.")] = None
    version: Annotated[list[str] | None, typer.Option("--version", help="The application version.")] = None
    patch: Annotated[str | None, typer.Option("--patch", help="DBOS.patched has answered true for this name.")] = None
    without_patch: Annotated[
        str | None, typer.Option("--without-patch", help="DBOS.patched has not answered true for this name.")
    ] = None
    unclaimable: Annotated[
        bool,
        typer.Option(
            "--unclaimable",
            help="It waits for an executor, and no live one can run it. Not: what an executor that has gone owns.",
        ),
    ] = False
    newest: Annotated[bool, typer.Option("--newest", help="The newest first.")] = False

    @property
    def is_empty(self) -> bool:
        """Whether all workflows fit."""
        return not any(getattr(self, each.name) for each in fields(self) if each.name != "newest")

    def arguments(self, otherwise: tuple[str, ...] | None = None) -> dict[str, Any]:
        """The arguments of `DBOSClient.list_workflows`; ``otherwise`` are the statuses if no option names any."""
        return {
            "status": self._statuses() if self.status else otherwise,
            "name": self.name or None,
            "id_prefix": self.prefix,
            "since": None if self.since is None else moment_of(self.since, "--since"),
            "until": None if self.until is None else moment_of(self.until, "--until"),
            "parent_id": self.parent,
            "application_version": self.version or None,
            "patch": self.patch,
            "without_patch": self.without_patch,
            "unclaimable": True if self.unclaimable else None,
        }

    def _statuses(self) -> list[str]:
        found: list[str] = []
        for text in self.status or ():
            word = text.strip().upper()
            if word not in GROUPS and word not in STATUSES:
                known = ", ".join((*STATUSES, *(each.lower() for each in GROUPS)))
                raise CommandError(f"--status must be one of {known} and is {shown(repr(text[:100]))}.", ExitCode.USAGE)
            found += GROUPS.get(word, (word,))
        return found


async def find_all(
    client: DBOSClient, filters: Filters, *, limit: int | None = None, payloads: bool = False, **arguments: Any
) -> AsyncIterator[WorkflowStatus]:
    """The workflows that fit, page by page."""
    left, cursor, seen = limit, None, set[str]()
    wanted = filters.arguments(**arguments)
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        page = await client.list_workflows(
            **wanted, limit=size, cursor=cursor, payloads=payloads, newest_first=filters.newest
        )
        for one in page:
            if one.workflow_id not in seen:
                seen.add(one.workflow_id)
                yield one
        if len(page) < size:
            return
        cursor = page[-1].cursor
        left = None if left is None else left - len(page)


def takes_filters(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command have the options of `Filters`, which it gets as one argument ``filters``."""
    added = inspect.signature(Filters, eval_str=True).parameters
    own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "filters"]

    @functools.wraps(command)
    def with_filters(**given: Any) -> None:
        command(filters=Filters(**{name: given.pop(name) for name in added}), **given)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *added.values())]
    with_filters.__dict__["__signature__"] = inspect.Signature(parameters)
    with_filters.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_filters
