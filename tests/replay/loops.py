"""The event loops that programs are played on."""

from __future__ import annotations

import argparse
import asyncio
import importlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def add_loop_arguments(parser: argparse.ArgumentParser) -> None:
    """``--uvloop`` and ``--eager``."""
    parser.add_argument("--uvloop", action="store_true", help="play on uvloop, which must be installed")
    parser.add_argument("--eager", action="store_true", help="start tasks eagerly (Python 3.12 and later)")


def loop_options(given: argparse.Namespace) -> list[str]:
    """The same for another process."""
    return [f"--{name}" for name in ("uvloop", "eager") if getattr(given, name)]


def run(work: Coroutine[Any, Any, T], given: argparse.Namespace) -> T:
    """Run this on the loop that was chosen."""
    factory = importlib.import_module("uvloop").new_event_loop if given.uvloop else None

    async def eagerly() -> T:
        asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - not in 3.11
        return await work

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(eagerly() if given.eager else work)
