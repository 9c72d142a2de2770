"""A workflow that cancels or deletes a family, killed (SIGKILL) before the n-th part of that: ``URL ACT [N]``.

ACT is cancel or delete, and the family is that of the workflow ``r``. It does it two at a time, and prints what it returns.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from dbos_async import DBOS, SetWorkflowID
from dbos_async._workflows import delete, families


@DBOS.workflow(name="acts on a family")
async def acts(act: str) -> dict[str, str]:
    if act == "cancel":
        return dict(await DBOS.cancel_workflows(["r", "nobody"], children=True))
    return dict(await DBOS.delete_workflows(["r", "nobody"], children=True))


def kill_before(number: int) -> None:
    chunks, count = families.chunks, 0

    def counted(all_of_them: Iterable[Any], size: int | None = None) -> Iterator[list[Any]]:
        nonlocal count
        for some in chunks(all_of_them, 2):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            yield some

    families.chunks = counted
    delete.chunks = counted  # type: ignore[attr-defined]  # it imports the function


async def main() -> None:
    kill_before(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    async with DBOS(sys.argv[1]):
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(acts, sys.argv[2])
        print(json.dumps(await handle.get_result()), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
