"""An executor of one of several applications in a database: ``python -m tests.support.programs.tenant URL SCHEMA [WORD]``."""

from __future__ import annotations

import asyncio
import sys

from dbos_async import DBOS
from tests.support.listening import options_of

WORDS = 4


@DBOS.workflow(name="tenant, talks")
async def talks() -> list[str]:
    schema = sys.argv[2]
    heard: list[str] = []
    for _ in range(WORDS):
        word = await DBOS.recv("word", timeout_seconds=None)
        heard.append(f"{schema} heard {word}")
        await DBOS.write_stream("heard", heard[-1])
        await DBOS.set_event("last", heard[-1])
    await DBOS.close_stream("heard")
    return heard


async def main() -> None:
    url, schema, *listening = sys.argv[1:]
    async with DBOS(url, **options_of(listening), schema=schema, migrate=False, executor_id="the same"):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
