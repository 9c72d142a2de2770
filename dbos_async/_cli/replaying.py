"""``dbos-async workflows replay``."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from dbos_async._cli.exits import CommandError, ExitCode
from dbos_async._cli.output import write, write_json
from dbos_async._cli.session import Json, Url, database_url, reported, run
from dbos_async._cli.texts import safe, seconds_of
from dbos_async._operations.replay import Replay, replay_workflow
from dbos_async._workflows.owners import register_subclasses
from dbos_async._workflows.registry import registered


def add_to(app: typer.Typer) -> None:
    """Register ``replay``."""
    app.command("replay")(reported(replay))


def replay(
    workflow_id: Annotated[str, typer.Argument(metavar="ID", help="The workflow.")],
    module: Annotated[
        str,
        typer.Argument(
            metavar="MODULE", help="The module or file of its function, as Python imports it (shop.orders, shop.py)."
        ),
    ],
    timeout: Annotated[str, typer.Option("--timeout", help="Give up after so long (60s, 5m).")] = "60s",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Replay what is recorded of a workflow with the code of today, and say whether it fits.

    Nothing is stored, and no step is called: the replay ends at the first step whose result is not recorded. What the workflow does
    outside of steps is done, as in every replay. The exit code is 5 if the code does not fit: the workflow would be parked, or
    would not end as it did.
    """
    seconds = seconds_of(timeout, "--timeout")
    load(module)
    register_subclasses()
    logging.getLogger("dbos_async").setLevel(
        logging.CRITICAL
    )  # what it says of failures and misfits is the answer here

    async def work() -> Replay:
        async with database_url(url) as found:
            return await replay_workflow(found, workflow_id, registered, timeout_seconds=seconds)

    result = run(work())
    if as_json:
        write_json(result)
    else:
        write(f"{'✓' if result.fits else '✗'} {safe(result.workflow_id)}  {safe(result.says)}")
    if not result.fits:
        raise typer.Exit(ExitCode.FAILED)


def load(module: str) -> None:
    """Import a module by its name or its file, so that its workflows are registered."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        path = Path(module)
        if module.endswith(".py"):
            _load_file(path)
        else:
            importlib.import_module(module)
    except Exception as error:
        raise CommandError(f"{module} cannot be imported: {type(error).__name__}: {error}.", ExitCode.USAGE) from error


def _load_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(loaded)
