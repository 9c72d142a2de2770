"""A program with old or new code that kills itself (SIGKILL) at the n-th step boundary, or prints how its workflows ended.

python -m tests.support.programs.patching URL CODE [before|during|after N]
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys

from dbos_async import DBOS
from tests.replay.executor import Death
from tests.support import patched
from tests.support.boundaries import around_boundaries

URL, CODE = sys.argv[1:3]
MODE, AT = (sys.argv[3], int(sys.argv[4])) if len(sys.argv) > 3 else ("never", 0)


async def main() -> None:
    """Start the workflows, unless they are there, tell them what they wait for, and await them."""
    logging.getLogger("dbos_async").setLevel(logging.CRITICAL)
    patched.CODE["is"] = CODE
    with around_boundaries(Death(MODE, AT).around):
        async with DBOS(URL, executor_id="program"):
            handles = {
                f"line {place}": await patched.start(patched.line, place, workflow_id=f"line {place}")
                for place in range(5)
            }
            for where in patched.PLACES:
                handles[where] = await patched.start(patched.tasks, where, workflow_id=where)
            for workflow_id in handles:
                for topic in ("a", "b"):
                    await DBOS.send(workflow_id, topic, topic, idempotency_key=topic)
                    await DBOS.send(workflow_id, topic, "go", idempotency_key=f"go {topic}")
            print(json.dumps({workflow_id: await handle.get_result() for workflow_id, handle in handles.items()}))


asyncio.run(main())
