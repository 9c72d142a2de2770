"""The guide of the command line shows what the commands print, and all commands and exit codes that there are."""

from __future__ import annotations

import pytest
import typer.main

from dbos_async._cli.exits import ExitCode
from dbos_async.cli import app
from tests.cli.guide import GUIDE, blocks, example, steady

pytestmark = pytest.mark.newest_only  # what is printed does not depend on the server's version


async def test_the_outputs_of_the_guide_are_those_of_now(database_url: str) -> None:
    async with example(database_url) as client:
        async for shown, made in blocks(database_url, client, GUIDE.read_text()):
            assert steady(shown) == steady(made), "run 'python -m tests.cli.guide'"


def test_the_guide_names_every_exit_code() -> None:
    text = GUIDE.read_text()
    for code in ExitCode:
        assert f"| {code.value} |" in text


def test_the_guide_names_every_command() -> None:
    text = GUIDE.read_text()
    group = typer.main.get_command(app)
    for name, command in getattr(group, "commands", {}).items():
        for word in getattr(command, "commands", None) or [name]:
            assert word in text, f"the guide says nothing of {name} {word}"
