"""``dbos-async doctor``: examine a database, and say what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from dbos_async._cli.exits import ExitCode
from dbos_async._cli.session import database_url, reported, run
from dbos_async._logs import counted, shown
from dbos_async._operations.doctor import Finding, examine

MARKS: Final = {"problem": ("✗", "bold red"), "warning": ("!", "yellow"), "ok": ("✓", "green")}
"""How each level is marked; the worst comes first."""


def add_to(app: typer.Typer) -> None:
    """Register ``doctor``."""
    app.command("doctor", rich_help_panel="Look at the application")(reported(doctor))


def doctor(
    database: Annotated[
        str | None,
        typer.Argument(
            metavar="URL", help="The database (default: $DBOS_DATABASE_URL, else the embedded Postgres of this folder)"
        ),
    ] = None,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="The same as the argument.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all findings as JSON.")] = False,
) -> None:
    """Find what keeps dbos_async from working well on a database, and say what to do.

    Nothing is changed. The exit code is 1 if there is a problem; warnings alone give 0.
    """
    with Console(stderr=True).status("Examining the database …"):
        findings = run(_examine(database or url))
    if as_json:
        typer.echo(json.dumps([finding.model_dump() for finding in findings], indent=2))
    else:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # an encoding that lacks the marks
        show(findings, Console())
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(ExitCode.ERROR)


async def _examine(url: str | None) -> list[Finding]:
    async with database_url(url) as found:
        return await examine(found)


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print the findings, the worst first."""
    width = max(len(finding.check) for finding in findings)
    for level, (mark, style) in MARKS.items():
        for finding in findings:
            if finding.level == level:
                name = escape(shown(finding.check).ljust(width))
                console.print(f"[{style}]{mark} {name}[/]", end="  ")
                _print_beside(console, finding, width + 4)
    bad = {level: sum(finding.level == level for finding in findings) for level in ("problem", "warning")}
    counts = " and ".join(counted(count, level) for level, count in bad.items() if count)
    console.print(f"\n{counts or 'All is well'} ({counted(len(findings), 'finding')}).", highlight=False)


def _print_beside(console: Console, finding: Finding, indent: int) -> None:
    """Print the sentences of a finding beside its name, and the lines after the first under their beginning."""
    text = Text(shown(finding.says))
    if finding.advice:
        text.append(f"\n→ {shown(finding.advice)}", style="cyan")
    lines = text.wrap(console, max(console.width - indent, 30))
    console.print(lines[0], highlight=False)
    for line in lines[1:]:
        console.print(Text(" " * indent) + line, highlight=False)
