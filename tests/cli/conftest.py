"""The command line on the database of a test."""

from __future__ import annotations

import pytest

from tests.cli.running import Command, command_of


@pytest.fixture
def command(database_url: str) -> Command:
    """Runs a command on the test's database; the workflows of the test's DBOS go on meanwhile."""
    return command_of(database_url)
