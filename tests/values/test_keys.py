"""Keys and ids: promise D3."""

from __future__ import annotations

from typing import Any

import pytest

from dbos_async import (
    DBOS,
    Event,
    InvalidArgumentError,
    SetWorkflowID,
    Stream,
    Topic,
)

BAD_KEYS: list[Any] = ["", "x" * 513, "a\0b", "\ud800", None, 7, b"k"]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: repr(key)[:12])
async def test_d3_keys_that_cannot_be_used_raise_one_sentence_before_anything_is_stored(
    database_url: str, connection: Any, key: Any
) -> None:

    @DBOS.workflow(name="uses a bad key")
    async def uses_a_bad_key() -> list[str]:
        sentences = []
        me = str(DBOS.workflow_id)
        for call in (
            lambda: DBOS.set_event(key, 1),
            lambda: DBOS.write_stream(key, 1),
            lambda: DBOS.close_stream(key),
            lambda: DBOS.get_event(me, key, 0),
            lambda: DBOS.get_event(key, "e", 0),
            lambda: DBOS.send(key, 1),
            lambda: DBOS.send(me, 1, idempotency_key="" if key is None else key),
            lambda: DBOS.recv("" if key is None else key, 0),
            lambda: DBOS.send(me, 1, "" if key is None else key),
            lambda: anext(DBOS.read_stream(me, key)),
        ):
            try:
                await call()
            except InvalidArgumentError as error:
                sentences.append(str(error))
        return sentences

    async with DBOS(database_url):
        sentences = await uses_a_bad_key()
        assert len(sentences) == 10
        assert not [sentence for sentence in sentences if "\n" in sentence or not sentence.endswith(".")]
        for call in (
            lambda: SetWorkflowID(key),
            lambda: Topic(key, int),
            lambda: Event(key, int),
            lambda: Stream(key, int),
        ):
            with pytest.raises(InvalidArgumentError):
                call()
    for table in ("messages", "events", "stream_entries", "steps"):
        assert await connection.fetchval(f"select count(*) from dbos_async.{table}") == 0


MAX_KEYS = ["😀" * 512, "::" * 256, "'\"\\%$1 {}" * 50, "\n\t\x01", "a", "\\x00"]


@pytest.mark.parametrize("key", MAX_KEYS, ids=range(len(MAX_KEYS)))
async def test_d3_any_text_of_512_characters_is_a_key(database_url: str, key: str) -> None:
    @DBOS.workflow(name=f"{key[:511]}w")
    async def uses() -> list[Any]:
        await DBOS.set_event(key, 1)
        await DBOS.write_stream(key, 2)
        await DBOS.close_stream(key)
        await DBOS.send(key, 3, key, idempotency_key=key)
        await DBOS.send(key, 4, key, idempotency_key=key)
        streamed = [value async for value in DBOS.read_stream(key, key)]
        return [await DBOS.get_event(key, key), streamed, await DBOS.recv(key), await DBOS.recv(key, 0)]

    async with DBOS(database_url):
        with SetWorkflowID(key):
            assert await uses() == [1, [2], 3, None]
