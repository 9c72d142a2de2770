"""``dbos-async``: the command line, to look at an application and to steer it. It needs the extra ``cli``.

docs/guide/command-line.md shows it. The commands are in ``_cli``, one module for each group.
"""

from __future__ import annotations

import typer

from dbos_async._cli import (
    acting,
    developing,
    doctor,
    exporting,
    following,
    listing,
    messages,
    page,
    purge,
    replaying,
    schema,
    sending,
    showing,
    state,
)
from dbos_async._cli.app import Commands

app: typer.Typer = typer.Typer(
    cls=Commands,
    help="dbos_async: durable workflows on Postgres.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # A traceback with local variables would show the URL.
)
workflows: typer.Typer = typer.Typer(
    no_args_is_help=True, help="List, show, start, cancel, resume, fork, delete, export and replay workflows."
)

developing.add_to(app)
for _part in (listing, showing, acting, exporting, replaying):
    _part.add_to(workflows)
app.add_typer(workflows, name="workflows", rich_help_panel="Look at the application")
for _part in (messages, state, sending, following, purge, schema, doctor, page):
    _part.add_to(app)
