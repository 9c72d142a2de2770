"""The exception of a workflow as a replay and another process see it: promises D1, D5 and W2."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS, SetWorkflowID
from tests.programs.asks import told
from tests.programs.failures import ManyError, PaymentError, fails, fails_with_one, failure

ROOT = Path(__file__).parent.parent
FAILURES = "tests.programs.failures"


async def ask(url: str, workflow_id: str, *modules: str) -> dict[str, Any]:
    """Return what another process finds when it asks for the result."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.programs.asks", url, workflow_id, *modules,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    found: dict[str, Any] = json.loads(out)
    return found


def as_it_travels(error: BaseException) -> Any:
    """Return what `told` returns, with the one argument that is not JSON replaced by its ``str()``."""
    return json.loads(json.dumps(told(error), default=str))


async def test_w2_d1_an_error_arrives_in_another_process_as_itself_if_its_type_is_imported_there(
    database_url: str,
) -> None:
    async with DBOS(database_url):
        with SetWorkflowID("many"), pytest.raises(ManyError):
            await fails()
        with SetWorkflowID("one"), pytest.raises(PaymentError):
            await fails_with_one()
        many, one = await asyncio.gather(ask(database_url, "many", FAILURES), ask(database_url, "one", FAILURES))
    assert many["imported"]
    assert many["error"] == as_it_travels(failure())
    expected = PaymentError("order-17", 7)
    assert {**one["error"], "cause": None} == as_it_travels(expected)
    assert one["error"]["cause"]["type"] == "builtins:ValueError"
    assert one["error"]["cause"]["text"] == "code=7"


async def test_d1_an_error_of_a_type_that_is_not_imported_is_named_and_nothing_gets_imported(database_url: str) -> None:
    async with DBOS(database_url):
        with SetWorkflowID("many"), pytest.raises(ManyError):
            await fails()
        with SetWorkflowID("one"), pytest.raises(PaymentError):
            await fails_with_one()
        many, one = await asyncio.gather(ask(database_url, "many"), ask(database_url, "one"))
    for found, name, words in ((many, "ManyError", "two of them"), (one, "PaymentError", "order-17 misses 7 cents")):
        assert not found["imported"]
        assert found["error"]["type"] == "dbos_async.errors:RecordedError"
        assert found["error"]["args"][0] == f"{FAILURES}:{name}"
        assert found["error"]["args"][1].startswith(words)
    assert many["error"]["notes"] == ["on a Monday"]
    assert one["error"]["cause"]["text"] == "code=7"


SEEN: list[Any] = []


@DBOS.workflow(name="catches")
async def catches() -> None:
    from tests.programs.failures import fails_in_a_step

    try:
        await fails_in_a_step()
    except* PaymentError as group:
        SEEN.append(told(group))
        await DBOS.recv("end", None)
        raise


async def test_w2_an_error_of_a_step_replays_as_it_was_first_seen(database_url: str) -> None:
    from tests.eventually import eventually

    SEEN.clear()
    for run in range(3):
        async with DBOS(database_url):
            if run == 0:
                with SetWorkflowID("w"):
                    await DBOS.start_workflow(catches)
            await eventually(lambda run=run: len(SEEN) == run + 1)  # type: ignore[misc]  # mypy infers no lambda with defaults
            if run == 2:
                await DBOS.send("w", None, "end")
                with pytest.raises(ExceptionGroup) as raised:
                    await (await DBOS.retrieve_workflow("w")).get_result()
                assert raised.group_contains(PaymentError, match="order-17 misses 7 cents")
    assert SEEN[0] == SEEN[1] == SEEN[2]
    assert SEEN[0]["members"][0]["cause"]["cause"]["type"] == "builtins:KeyError"


@DBOS.workflow(name="fails at length")
async def fails_at_length() -> None:
    raise PaymentError("x" * (2 << 20), 7)


async def test_d2_an_error_that_is_too_large_is_recorded_by_its_type_and_the_beginning_of_its_message(
    database_url: str,
) -> None:
    async with DBOS(database_url):
        with pytest.raises(PaymentError) as raised:
            await fails_at_length()
        assert raised.value.args == ("x" * 1000, 7)
        assert str(raised.value) == f"{'x' * 1000} misses 7 cents"
        (note,) = raised.value.__notes__
        assert note.startswith("Most of this error is not recorded: it had 6,")
        (status,) = await DBOS.list_workflows()
        assert len(json.dumps(status.error)) < 5000
