"""One executor with objects. It runs until it gets a signal.

    python -m tests.support.programs.shops URL NAME FILE CITY …

FILE gets a line each time the body of a step runs.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from dbos_async import DBOS


class Shop:
    def __init__(self, config_name: str, ledger: Path, opened_by: str) -> None:
        self.config_name, self.ledger, self.opened_by = config_name, ledger, opened_by

    @DBOS.step()
    async def note(self, what: str) -> str:
        with self.ledger.open("a") as lines:
            lines.write(f"{self.config_name} {what}\n")
        return self.opened_by

    @DBOS.workflow()
    async def order(self, item: str) -> list[str]:
        return [await self.note(item), str(await DBOS.recv("paid", None)), await self.note("sent")]

    @DBOS.workflow()
    @classmethod
    async def audit(cls) -> str:
        await DBOS.recv("audited", None)
        return cls.__name__


class Market(Shop):
    """A subclass."""


async def main(url: str, name: str, file: str, *cities: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    for city in cities:
        kind = Market if city.isupper() else Shop
        DBOS.register_instance(kind(city, Path(file), name))
    async with DBOS(url, executor_id=name):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
