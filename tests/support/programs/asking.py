"""An executor that runs shops and customers (tests/support/asking.py): python -m tests.support.programs.asking URL NAME."""

from __future__ import annotations

import asyncio
import sys

from dbos_async import DBOS
from tests.support import asking

WORKFLOWS = asking.shop, asking.regular


async def main(url: str, name: str) -> None:
    """Run until somebody ends it."""
    async with DBOS(url, executor_id=name):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
