"""Objects and classes with workflows, for the program crash.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dbos_async import DBOS


@DBOS.step()
async def noted(name: str) -> str:
    with Path(sys.argv[3]).open("a") as file:
        file.write(f"{name}\n")
    return name.upper()


class Till:
    """Objects that work, and a class that does."""

    def __init__(self, config_name: str) -> None:
        self.config_name = config_name

    @DBOS.step()
    async def ring(self, item: str) -> str:
        return await noted(f"{self.config_name}-{item}")

    @DBOS.workflow()
    async def sell(self, item: str) -> str:
        return await self.ring(item)

    @DBOS.workflow()
    @classmethod
    async def count(cls, items: int) -> str:
        return f"{items} {await noted(cls.__name__)}"


class QuickTill(Till):
    @DBOS.workflow()
    async def sell(self, item: str) -> str:
        return f"quick {await super().sell(item)}"

    @DBOS.workflow()
    async def serve(self) -> dict[str, Any]:
        """Uses what it inherits, another object, and a class method."""
        outcome: dict[str, Any] = {"sold": await self.sell("a"), "first": await DBOS.recv("in", 60)}
        other = await DBOS.start_workflow(berlin.sell, "b")
        outcome["second"] = await DBOS.recv("in", 60)
        outcome["other"] = await other.get_result()
        outcome["rung"] = await self.ring("c")
        outcome["counted"] = await QuickTill.count(3)
        return outcome


berlin, rome = DBOS.register_instance(Till("berlin")), DBOS.register_instance(QuickTill("rome"))
