"""How large what travels may be, and what JSON cannot hold or holds in its own way: promises D1 and D2, through the database."""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DBOSClient,
    InvalidArgumentError,
    InvalidMessageError,
    InvalidValueError,
    SendMessage,
    SetWorkflowID,
    Topic,
)
from dbos_async._serialization.values import MAX_DEPTH
from tests.support.eventually import eventually

MOST = 1000
FITS = "x" * (MOST - 2)
TOO_LARGE = "x" * (MOST - 1)
WIDE = "é" * (MOST // 2 - 1)  # half as many characters as bytes

RAN: list[str] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    RAN.clear()


@DBOS.step(name="makes what is large")
async def makes(value: Any) -> Any:
    RAN.append("step")
    return value


@DBOS.step(name="says in a step")
async def says_in_a_step(value: Any) -> None:
    await DBOS.set_event("in a step", value)


@DBOS.workflow(name="ends with")
async def ends_with(value: Any) -> Any:
    return value


@DBOS.workflow(name="ends with a larger one")
async def ends_with_a_larger_one() -> str:
    RAN.append("workflow")
    return TOO_LARGE


async def _verbs(value: Any) -> dict[str, str]:
    """What each verb of a workflow raises for a value."""
    outcomes = {}
    verbs: dict[str, Callable[[], Awaitable[Any]]] = {
        "send": lambda: DBOS.send("other", value),
        "send_bulk": lambda: DBOS.send_bulk([SendMessage("other", 1), SendMessage("other", value)]),
        "set_event": lambda: DBOS.set_event("e", value),
        "write_stream": lambda: DBOS.write_stream("s", value),
        "start_workflow": lambda: DBOS.start_workflow(ends_with, value),
        "step": lambda: makes(value),
        "in a step": lambda: says_in_a_step(value),
    }
    for name, act in verbs.items():
        try:
            await act()
            outcomes[name] = "done"
        except InvalidValueError as error:
            outcomes[name] = f"{type(error).__name__} {error}"
    return outcomes


TRIED: list[str | None] = []


@DBOS.workflow(name="tries all verbs")
async def tries_all_verbs(length: int) -> dict[str, str]:
    outcomes = await _verbs("x" * length)
    TRIED.append(DBOS.workflow_id)
    await DBOS.recv("end", None)
    return outcomes


@DBOS.workflow(name="sleeps for ever")
async def sleeps_for_ever() -> None:
    await DBOS.recv("end", None)


async def test_d2_what_is_too_large_raises_and_nothing_is_stored(database_url: str, connection: Any) -> None:
    async with DBOS(database_url, max_payload_bytes=MOST), DBOSClient(database_url, max_payload_bytes=MOST) as client:
        with SetWorkflowID("w"):
            await DBOS.start_workflow(sleeps_for_ever)
        for side in (DBOS, client):
            for value in (TOO_LARGE, WIDE + "é"):
                for act in (
                    side.send("w", value),
                    side.send("w", 1, headers={"h": value}),
                    side.send_bulk([SendMessage("w", 1), SendMessage("w", value)]),
                ):
                    with pytest.raises(InvalidMessageError, match=r"has 1,0\d\d bytes and may have 1,000") as raised:
                        await act
                    assert "'w'" in str(raised.value)
            with SetWorkflowID("ticket"), pytest.raises(InvalidValueError, match="has 1,0.. bytes"):
                await side.start_workflow(ends_with, TOO_LARGE)
        assert await connection.fetchval("select count(*) from dbos_async.messages") == 0
        assert await connection.fetchval("select count(*) from dbos_async.workflows") == 1
        for value in (FITS, WIDE):
            await DBOS.send("w", value)
        assert [message.payload for message in await DBOS.list_messages("w")] == [FITS, WIDE]


async def test_d2_in_a_workflow_what_is_too_large_is_recorded_whatever_the_limit_is_later(database_url: str) -> None:
    async with DBOS(database_url, max_payload_bytes=MOST):
        with SetWorkflowID("other"):
            await DBOS.start_workflow(sleeps_for_ever)
        for name, length in (("large", len(TOO_LARGE)), ("fits", MOST - 40)):
            with SetWorkflowID(name):
                await DBOS.start_workflow(tries_all_verbs, length)
            await eventually(functools.partial(_steps, name, 8))
        assert RAN == ["step", "step"]
        assert await DBOS.get_all_events("large") == {}
        assert len(await DBOS.list_messages("other")) == 3
    TRIED.clear()
    # One limit would let all through, the other nothing: a replay hears what was recorded.
    for most in (MOST * 10, 50):
        async with DBOS(database_url, max_payload_bytes=most):
            await eventually(lambda: set(TRIED) == {"large", "fits"}, "both were replayed")
            TRIED.clear()
    async with DBOS(database_url):
        for name in ("large", "fits"):
            await DBOS.send(name, None, "end")
        large = await (await DBOS.retrieve_workflow("large")).get_result()
        fits = await (await DBOS.retrieve_workflow("fits")).get_result()
        assert len(await DBOS.list_messages("other")) == 3
        assert (await DBOS.list_workflows(name="ends with"))[0].output == "x" * (MOST - 40)
    assert RAN == ["step", "step"]
    assert set(fits.values()) == {"done"}
    for verb, outcome in large.items():
        assert outcome.startswith("InvalidMessageError" if "send" in verb else "InvalidValueError"), outcome
        assert "bytes and may have 1,000 (max_payload_bytes): keep it elsewhere" in outcome


async def _steps(workflow_id: str, count: int) -> bool:
    return len(await DBOS.list_workflow_steps(workflow_id)) >= count


async def test_d2_a_result_that_is_too_large_is_the_error_of_its_workflow(database_url: str) -> None:
    async with DBOS(database_url, max_payload_bytes=MOST):
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(ends_with_a_larger_one)
        with pytest.raises(
            InvalidValueError, match="The result of workflow 'w' cannot be used: its JSON has 1,001 bytes"
        ):
            await handle.get_result()
        assert (await handle.get_status()).status == "ERROR"
    assert RAN == ["workflow"]


async def test_d2_what_was_stored_under_a_larger_limit_can_be_read(database_url: str) -> None:
    async with DBOS(database_url, max_payload_bytes=30):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(sleeps_for_ever)
        async with DBOSClient(database_url) as client:
            await client.send("w", TOO_LARGE, "end")
            handle = await client.start_workflow(ends_with, "x" * 100)
            with pytest.raises(InvalidValueError, match="may have 30 "):
                await handle.get_result()
        assert await (await DBOS.retrieve_workflow("w")).get_result() is None


async def test_d2_the_limit_is_8_mib_and_travels_both_ways(database_url: str) -> None:
    value = "x" * (8 * 2**20 - 2)
    async with DBOS(database_url):
        assert await ends_with("x" * (8 * 2**20 - 30)) == "x" * (8 * 2**20 - 30)
        with pytest.raises(InvalidMessageError, match="has 8,388,609 bytes and may have 8,388,608"):
            await DBOS.send("w", value + "x")


@pytest.mark.parametrize("most", [0, -1, 1.5, "8", None, True, 2**31])
async def test_d5_a_limit_that_is_none_is_refused(most: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="max_payload_bytes must be a whole number of at least 1"):
        DBOS("postgresql://x", max_payload_bytes=most)
    with pytest.raises(InvalidArgumentError, match="max_payload_bytes must be a whole number of at least 1"):
        DBOSClient("postgresql://x", max_payload_bytes=most)


# What JSON can say only just, and what it cannot say.


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


SAYABLE: list[Any] = [
    None, True, 0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, 1e22, 1e16, 2**53 + 1, 2**63, -(2**64), 10**4299, "", "\0", "a\0b",
    '😀\u2028\x7f\\u0000"', [], {}, [[]], {"": {}}, [None], {"a": None}, {"\0": "\0"}, "NaN", {"NaN": "Infinity"}, "1e400",
    nested(MAX_DEPTH), {"__stream_closed__": True}, "__DBOS_STREAM_CLOSED__", {"args": [], "kwargs": {}}, {"type": "os:system"},
    {"k" * 2000: 1}, [True, 1, 1.0, "1"],
]  # fmt: skip

UNSAYABLE: dict[str, Any] = {
    "nan": math.nan, "infinity": [math.inf], "surrogate": "\ud800", "surrogate in a key": {"\ud800": 1},
    "too deep": nested(MAX_DEPTH + 1), "too many digits": 10**4300,
    "a key that is a number": {1: 2}, "two keys that would be one": {1: "a", "1": "b"},
    "float 1e400": float("1e400"), "no JSON": object(),
}  # fmt: skip


@DBOS.workflow(name="passes on")
async def passes_on(values: list[Any]) -> list[Any]:
    """Everything through everything, in a workflow."""
    seen: list[Any] = []
    for value in values:
        await DBOS.set_event("e", value)
        await DBOS.write_stream("s", value)
        seen.append(await makes(value))
        seen.append(await DBOS.get_event(str(DBOS.workflow_id), "e"))
        seen.append(await DBOS.recv("t"))
        envelope = await DBOS.recv_envelope("t")
        assert envelope is not None
        seen.append(envelope.payload)
    async for value in DBOS.read_stream(str(DBOS.workflow_id), "s"):
        seen.append(value)
        if len(seen) == 5 * len(values):
            break
    return seen


async def test_d1_what_json_can_say_only_just_comes_back_as_it_was(database_url: str) -> None:
    async with DBOS(database_url), DBOSClient(database_url) as client:
        sayable = [value for value in SAYABLE if repr(value) != repr(nested(MAX_DEPTH))]
        for start in (DBOS.start_workflow, client.start_workflow):
            handle = await start(passes_on, sayable)
            for value in sayable:
                await DBOS.send(handle.workflow_id, value, "t")
                await client.send_bulk([SendMessage(handle.workflow_id, value, "t")])
            seen = await handle.get_result()
            expected = [value for value in sayable for _ in range(4)] + sayable
            assert repr(seen) == repr(expected)
            assert repr((await handle.get_status()).input) == repr({"args": [sayable], "kwargs": {}})
            live = [value async for value in client.read_stream(handle.workflow_id, "s")]
            assert repr(live) == repr(sayable)
        handle = await DBOS.start_workflow(ends_with, nested(MAX_DEPTH))
        assert repr(await handle.get_result()) == repr(nested(MAX_DEPTH))


@DBOS.workflow(name="cannot pass on")
async def cannot_pass_on(name: str) -> list[str]:
    sentences = []
    value = UNSAYABLE[name]
    for call in (
        lambda: DBOS.send(str(DBOS.workflow_id), value, "t"),
        lambda: DBOS.set_event("e", value),
        lambda: DBOS.write_stream("s", value),
        lambda: DBOS.start_workflow(ends_with, value),
        lambda: makes_unsayable(name),
    ):
        try:
            await call()
        except InvalidValueError as error:
            sentences.append(str(error))
    return sentences


@DBOS.step(name="makes unsayable")
async def makes_unsayable(name: str) -> Any:
    RAN.append(name)
    return UNSAYABLE[name]


@DBOS.workflow(name="ends with what cannot be said")
async def ends_with_what_cannot_be_said(name: str) -> Any:
    return UNSAYABLE[name]


async def test_d2_what_json_cannot_say_raises_wherever_it_leaves_and_stores_nothing(
    database_url: str, connection: Any
) -> None:
    async with DBOS(database_url), DBOSClient(database_url) as client:
        with SetWorkflowID("w"):
            await DBOS.start_workflow(sleeps_for_ever)
        for name, value in UNSAYABLE.items():
            sentences = await cannot_pass_on(name)
            assert len(sentences) == 5, name
            for sentence in sentences:
                assert " cannot be used: " in sentence
                assert "\n" not in sentence
            for act in (
                DBOS.send("w", value),
                client.send("w", value),
                DBOS.start_workflow(ends_with, value),
                client.start_workflow("ends with", value),
            ):
                with pytest.raises(InvalidValueError, match="cannot be used"):
                    await act
            with pytest.raises(InvalidValueError, match="The result of workflow '.*' cannot be used"):
                await ends_with_what_cannot_be_said(name)
        assert list(UNSAYABLE) == RAN, "a step whose result cannot be stored is not run again"
        for table in ("messages", "events", "stream_entries"):
            assert await connection.fetchval(f"select count(*) from dbos_async.{table}") == 0
        assert await DBOS.list_workflows(name="ends with") == []


@pytest.mark.parametrize("declared", [Any, Decimal, float], ids=str)
async def test_d2_numbers_that_others_wrote_are_exact_or_raise(
    database_url: str, connection: Any, declared: Any
) -> None:
    """Rows that no Python wrote: a number beyond the floats raises, it does not become an infinity."""
    insert = """
        insert into dbos_async.messages (id, seq, destination_id, topic, payload)
        values (gen_random_uuid(), nextval('dbos_async.message_seq'), 'w', 't', $1)
    """

    @DBOS.workflow(name=f"takes {declared}")
    async def takes() -> list[Any]:
        seen: list[Any] = []
        for _ in range(3):
            try:
                seen.append(str(await DBOS.recv(Topic[Any]("t", declared))))
            except InvalidMessageError as error:
                seen.append(type(error).__name__)
        return seen

    async with DBOS(database_url):
        for number in ("1e400", "-1" + "0" * 400 + ".0", "1e5"):
            await connection.execute(insert, number)
        with SetWorkflowID("w"):
            result = await takes()
    assert result[:2] == ["InvalidMessageError"] * 2
    assert float(result[2]) == 1e5


async def test_d1_the_last_of_two_equal_keys_that_others_wrote_counts_as_in_python(
    database_url: str, connection: Any
) -> None:
    async with DBOS(database_url):
        handle = await DBOS.start_workflow(ends_with, 1)
        await handle.get_result()
        await connection.execute(
            'update dbos_async.workflows set output = \'{"a": 1, "a": 2}\' where id = $1', handle.workflow_id
        )
        assert await (await DBOS.retrieve_workflow(handle.workflow_id)).get_result() == {"a": 2}
