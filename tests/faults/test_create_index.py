"""Executors while an operator's ``create index`` locks a table for longer than a lease (W10)."""

from __future__ import annotations

import sys

import pytest

from tests.chaos.create_index import endure

LOCKED_SECONDS = 18.0
"""More than the 15 s of a lease, or nothing could be seen."""


@pytest.mark.chaos
@pytest.mark.usefixtures("programs")
@pytest.mark.skipif(sys.platform == "win32", reason="signals and sockets are others there")
async def test_w10_nobody_is_reaped_and_nothing_runs_twice_while_an_index_is_created() -> None:
    assert await endure(LOCKED_SECONDS, 1, ["workflows"], 40) == []
