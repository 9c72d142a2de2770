"""What a type checker sees of `continue_as_new`: the call does not return, so nothing after it is reached."""

from __future__ import annotations

from typing import assert_type

from dbos_async import DBOS


@DBOS.workflow(name="typed, counts")
async def counts(count: int) -> int:
    if count < 10:
        await DBOS.continue_as_new(count + 1)
    return count


@DBOS.workflow(name="typed, never returns")
async def never_returns(count: int) -> int:
    await DBOS.continue_as_new(count + 1)  # no missing return


async def generations() -> None:
    handle = await DBOS.start_workflow(counts, 1)
    assert_type(await handle.get_result(), int)
    assert_type((await handle.get_status()).generation, int)
