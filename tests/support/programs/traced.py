"""An executor that is killed while its workflow waits. The workflow was started in a trace.

python -m tests.support.programs.traced URL EXECUTOR_ID TRACE_ID SPAN_ID
"""

from __future__ import annotations

import asyncio
import sys

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from dbos_async import DBOS, SetWorkflowID
from tests.support.eventually import eventually


@DBOS.step(name="traced step")
async def step() -> int:
    return 1


@DBOS.workflow(name="traced workflow")
async def traced() -> int:
    """Waits between two steps."""
    first = await step()
    await DBOS.recv("go", timeout_seconds=None)
    return first + await step()


async def _waits() -> bool:
    return len(await DBOS.list_workflow_steps("traced")) == 2


async def main(url: str, executor_id: str, trace_id: str, span_id: str) -> None:
    caller = SpanContext(int(trace_id), int(span_id), is_remote=True, trace_flags=TraceFlags(1))
    context.attach(trace.set_span_in_context(NonRecordingSpan(caller)))
    async with DBOS(url, executor_id=executor_id):
        with SetWorkflowID("traced"):
            await DBOS.start_workflow(traced)
        await eventually(_waits)
        print("waits", flush=True)
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
