"""Another process, which asks for the result of a workflow and prints what that raised.

Usage: python -m tests.support.programs.asks URL WORKFLOW_ID [MODULE …]: the modules are imported first.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any

from dbos_async import DBOSClient


def told(error: BaseException | None) -> Any:
    """An exception as JSON: what a program could see of it."""
    if error is None:
        return None
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return {
        "type": f"{type(error).__module__}:{type(error).__qualname__}",
        "args": [] if members else list(error.args),
        "text": str(error),
        "attributes": vars(error).get("order"),
        "notes": getattr(error, "__notes__", []),
        "cause": told(error.__cause__),
        "members": [told(member) for member in members],
    }


async def main(url: str, workflow_id: str) -> None:
    """Ask, and print."""
    async with DBOSClient(url) as client:
        handle = await client.retrieve_workflow(workflow_id)
        try:
            await handle.get_result()
        except Exception as error:
            print(
                json.dumps(
                    {"error": told(error), "imported": "tests.support.programs.failures" in sys.modules}, default=str
                )
            )


if __name__ == "__main__":
    for module in sys.argv[3:]:
        importlib.import_module(module)
    asyncio.run(main(*sys.argv[1:3]))
