"""Values that do not fit the type they are read as: promise D2."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from dbos_async import (
    DBOS,
    DBOSClient,
    Event,
    InvalidArgumentError,
    InvalidMessageError,
    InvalidStreamValueError,
    InvalidValueError,
    MessageNotFoundError,
    RedeliveryError,
    SetWorkflowID,
    Stream,
    Topic,
    WorkflowHandle,
    WorkflowNotFoundError,
)
from tests.support.eventually import eventually


class Payment(BaseModel):
    status: str


class Number(BaseModel):
    number: int


SEEN: list[Any] = []
WANTED: dict[str, Any] = {}
"""The types that the code declares at the moment, as a deploy would change them."""


@pytest.fixture(autouse=True)
def _clean() -> None:
    SEEN.clear()
    WANTED.clear()


@DBOS.workflow(name="reads")
async def reads(how: str) -> list[Any]:
    """Reads two values as the wanted type, then waits for a message to end."""
    wanted = WANTED.get("type", Payment)
    seen: list[Any] = []
    for n in range(2):
        try:
            if how == "recv":
                seen.append(await DBOS.recv(Topic[Any]("t", wanted)))
            elif how == "recv_envelope":
                envelope = await DBOS.recv_envelope(Topic[Any]("t", wanted))
                seen.append(envelope.payload if envelope else None)
            elif how == "get_event":
                seen.append(await DBOS.get_event(f"said-{n}", Event[Any]("e", wanted)))
            elif how == "read_stream":
                async for value in DBOS.read_stream("wrote", Stream[Any]("s", wanted), offset=n):
                    seen.append(value)
                    break
            elif how == "get_result":
                handle: WorkflowHandle[Any] = WorkflowHandle(_database(), f"returned-{n}", wanted)
                seen.append(await handle.get_result())
        except InvalidValueError as invalid:
            seen.append(type(invalid).__name__)
    plain = [value.model_dump() if isinstance(value, BaseModel) else value for value in seen]
    SEEN.append(plain)
    await DBOS.recv("end", None)
    return plain


def _database() -> Any:
    from dbos_async._executor import launched

    return launched.executor().database


@DBOS.workflow(name="says")
async def says(value: Any) -> Any:
    await DBOS.set_event("e", value)
    await DBOS.write_stream("s", value)
    return value


@DBOS.workflow(name="writes both")
async def writes() -> None:
    await DBOS.write_stream("s", {"status": 17})
    await DBOS.write_stream("s", {"status": "paid"})


async def prepare() -> None:
    for prefix in ("said", "returned"):
        for n, value in enumerate(({"status": 17}, {"status": "paid"})):
            with SetWorkflowID(f"{prefix}-{n}"):
                await says(value)
    with SetWorkflowID("wrote"):
        await writes()


ERRORS = {
    "recv": "InvalidMessageError",
    "recv_envelope": "InvalidMessageError",
    "get_event": "InvalidValueError",
    "read_stream": "InvalidStreamValueError",
    "get_result": "InvalidValueError",
}


@pytest.mark.parametrize("how", ERRORS)
async def test_d2_what_does_not_fit_raises_and_a_replay_does_not_judge_anew(how: str, database_url: str) -> None:
    expected = [ERRORS[how], {"status": "paid"}]
    async with DBOS(database_url):
        await prepare()
        with SetWorkflowID("w"):
            await DBOS.start_workflow(reads, how)
        await DBOS.send("w", {"status": 17}, "t")
        await DBOS.send("w", {"status": "paid"}, "t")
        await eventually(lambda: SEEN)
        assert [expected] == SEEN
    # The code that takes over could read both, and still hears what was recorded.
    WANTED["type"] = Any
    async with DBOS(database_url):
        await eventually(lambda: len(SEEN) == 2)
        assert SEEN[1] == expected
        await DBOS.send("w", None, "end")
        assert await (await DBOS.retrieve_workflow("w")).get_result() == expected


@pytest.mark.parametrize("how", ERRORS)
async def test_w4_a_replay_that_cannot_read_what_could_be_read_is_parked(how: str, database_url: str) -> None:
    WANTED["type"] = Any
    async with DBOS(database_url):
        await prepare()
        with SetWorkflowID("w"):
            await DBOS.start_workflow(reads, how)
        await DBOS.send("w", {"status": 17}, "t")
        await DBOS.send("w", {"status": "paid"}, "t")
        await eventually(lambda: SEEN)
    WANTED["type"] = Number
    async with DBOS(database_url):
        handle = await DBOS.retrieve_workflow("w")
        await eventually(lambda: _status(handle, "REPLAY_MISMATCH"))
        error = (await handle.get_status()).error
        assert "with a value that fit" in error["args"][2]
        assert "a type that it does not fit" in error["args"][3]
        WANTED["type"] = Any
        await DBOS.resume_workflow("w")
        await DBOS.send("w", None, "end")
        assert await handle.get_result() == [{"status": 17}, {"status": "paid"}]


async def _status(handle: WorkflowHandle[Any], status: str) -> bool:
    return (await handle.get_status()).status == status


async def test_d2_a_step_result_that_cannot_be_read_any_more_parks_the_workflow(database_url: str) -> None:
    def registered() -> Any:
        from dbos_async._workflows import registry

        registry.registered.pop("typed step", None)

        async def charge() -> Any:
            SEEN.append("ran")
            return {"n": 1}

        charge.__annotations__["return"] = WANTED["type"]  # as a deploy would change it
        step = DBOS.step(name="the step")(charge)

        @DBOS.workflow(name="typed step")
        async def run() -> Any:
            found = await step()
            await DBOS.recv("end", None)
            return found

        return run

    WANTED["type"] = dict[str, int]
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(registered())
        await eventually(lambda: SEEN)
        await eventually(lambda: _steps_of("w", 1))
    WANTED["type"] = list[int]
    registered()
    async with DBOS(database_url):
        handle = await DBOS.retrieve_workflow("w")
        await eventually(lambda: _status(handle, "REPLAY_MISMATCH"))
    WANTED["type"] = dict[str, int]
    registered()
    async with DBOS(database_url):
        await DBOS.resume_workflow("w")
        await DBOS.send("w", None, "end")
        assert await handle_of("w") == {"n": 1}
    assert SEEN == ["ran"]


async def handle_of(workflow_id: str) -> Any:
    return await (await DBOS.retrieve_workflow(workflow_id)).get_result()


async def _steps_of(workflow_id: str, count: int) -> bool:
    return len(await DBOS.list_workflow_steps(workflow_id)) >= count


async def test_d2_the_error_of_a_message_names_it_and_says_what_is_wrong(dbos: DBOS) -> None:
    @DBOS.workflow(name="explains")
    async def explains() -> Any:
        try:
            await DBOS.recv(Topic("t", Payment))
        except InvalidMessageError as error:
            return [str(error), error.details[0]["loc"], error.message_id]

    handle = await DBOS.start_workflow(explains)
    await DBOS.send(handle.workflow_id, {"status": 17}, "t")
    sentence, place, message_id = await handle.get_result()
    assert sentence.startswith(f"The received message {message_id} of topic 't' cannot be used: status: ")
    assert place == ["status"]


async def test_d2_outside_the_error_of_a_stream_value_says_where_to_read_on(dbos: DBOS, database_url: str) -> None:
    await prepare()
    stream = Stream("s", Payment)
    async with DBOSClient(database_url) as client:
        for read in (DBOS.read_stream, client.read_stream):
            seen: list[Any] = []
            offset = 0
            while True:
                try:
                    async for value in read("wrote", stream, offset=offset):
                        seen.append(value)  # noqa: PERF401 - what was read before the error counts
                    break
                except InvalidStreamValueError as error:
                    seen.append(error.offset)
                    offset = error.offset + 1
            assert seen == [0, Payment(status="paid")]


async def rejected(workflow_id: str) -> Any:
    return await DBOS.list_messages(workflow_id, status="rejected")


async def test_d2_a_rejected_message_is_listed_and_delivered_again_to_the_repaired_code(
    dbos: DBOS, database_url: str
) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(reads, "recv")
    await DBOS.send("w", {"status": 17}, "t", idempotency_key="k", headers={"h": "1"})
    await eventually(lambda: rejected("w"))
    (message,) = await DBOS.list_messages("w")
    assert (message.payload, message.headers, message.topic) == ({"status": 17}, {"h": "1"}, "t")
    assert message.rejected is not None
    assert "status: Input should be a valid string" in message.rejected
    assert message.received_at is not None
    WANTED["type"] = Any
    async with DBOSClient(database_url) as client:
        await client.redeliver(str(message.id))
        # The queue went on: the copy is the next one, and this run still reads it as it did.
        await eventually(lambda: SEEN)
        assert SEEN == [["InvalidMessageError"] * 2]
        both = await client.list_messages("w", topic="t")
        assert [(m.payload, m.rejected is not None) for m in both] == [({"status": 17}, True)] * 2
        assert both[1].sent_at == message.sent_at
        assert await client.list_messages("w", status="waiting") == []
        assert [m.id for m in await client.list_messages("w", after=both[0].id)] == [both[1].id]
        await client.send("w", None, "end")
        await handle.get_result()
        with pytest.raises(RedeliveryError, match=r"DBOS.fork_workflow\('w', 1\) makes a copy of the workflow"):
            await client.redeliver(message.id)
        fork = await client.fork_workflow("w", 1)
        await client.send(fork.workflow_id, None, "end")
        assert await fork.get_result() == [{"status": 17}, {"status": 17}]
        assert await client.list_messages(fork.workflow_id, status="rejected") == []


async def test_d5_only_a_rejected_message_is_delivered_again(dbos: DBOS) -> None:
    with SetWorkflowID("w"):
        await DBOS.start_workflow(reads, "recv")
    await DBOS.send("w", {"status": "paid"}, "t")
    await DBOS.send("w", 1, "another topic")
    await eventually(lambda: DBOS.list_messages("w", status="received"))
    received, waiting = await DBOS.list_messages("w")
    with pytest.raises(RedeliveryError, match="was received by step 1 of workflow 'w' and not rejected"):
        await DBOS.redeliver(received.id)
    with pytest.raises(RedeliveryError, match="still waits for workflow 'w'"):
        await DBOS.redeliver(waiting.id)
    with pytest.raises(MessageNotFoundError):
        await DBOS.redeliver(UUID(int=0))
    for bad in ("x", 7, None):
        with pytest.raises(InvalidArgumentError, match="is a UUID"):
            await DBOS.redeliver(bad)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(WorkflowNotFoundError):
        await DBOS.list_messages("nobody")
    with pytest.raises(InvalidArgumentError, match="status must be one of"):
        await DBOS.list_messages("w", status="lost")
