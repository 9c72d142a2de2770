"""Values that look like others and are not taken for them: promise D1, without a database."""

from __future__ import annotations

from datetime import date
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from asyncpg.pgproto import pgproto
from pydantic import BaseModel
from typing_extensions import TypedDict

from dbos_async import InvalidValueError
from dbos_async._serialization.values import decode_value, encode_value
from tests.support.models import there_and_back


class Ordered(TypedDict):
    first: int
    second: int


def test_d1_the_keys_of_a_typed_dict_arrive_in_the_order_of_their_declaration() -> None:
    again = decode_value(encode_value({"second": 2, "first": 1}, Ordered), Ordered)
    assert list(again.items()) == [("first", 1), ("second", 2)]


class Due(Enum):
    """Members of which two have the same JSON."""

    DAY = date(2026, 1, 2)
    TEXT = "2026-01-02"
    OTHER = 3


def test_d1_a_member_never_arrives_as_another_one() -> None:
    for declared, value in ((Due, Due.DAY), (list[Due | None], [Due.DAY]), (dict[str, Due], {"a": Due.DAY})):
        with pytest.raises(InvalidValueError, match=r"its Due\.DAY would arrive as Due\.TEXT"):
            encode_value(value, declared)
    for member in (Due.TEXT, Due.OTHER):
        assert decode_value(encode_value(member, Due), Due) is member


class Row(BaseModel):
    id: UUID
    others: dict[UUID, set[UUID]] = {}


def test_d1_an_id_that_asyncpg_has_read_is_a_uuid() -> None:
    read, plain = pgproto.UUID(UUID(int=7).bytes), UUID(int=7)
    for declared, value, expected in (
        (UUID, read, plain), (list[UUID | None], [read], [plain]), (UUID | str, read, plain), (Any, read, str(plain)),
        (Row, Row(id=read, others={read: {read}}), Row(id=plain, others={plain: {plain}})),
    ):  # fmt: skip
        again = decode_value(encode_value(value, declared), declared)
        assert (again, type(again)) == (expected, type(expected))
    error = ValueError(read)
    error.row = read  # type: ignore[attr-defined]
    again = there_and_back(error)
    assert (again.args, vars(again)["row"]) == ((plain,), plain)
    with pytest.raises(
        InvalidValueError, match=r"has tests\.values\.test_look_alikes\.UUID.*, which would arrive as uuid\.UUID"
    ):
        encode_value(type("UUID", (UUID,), {})(int=7), UUID)
