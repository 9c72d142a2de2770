"""Calls as JSON and back: promise D1, without a database."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import pytest

from dbos_async import InvalidValueError
from dbos_async._serialization.signature import Signature, encode_plain_call
from tests.support.models import (
    NOW,
    Colour,
)


def example(a: int, /, b: datetime, *rest: Decimal, c: Colour = Colour.RED, **more: bytes) -> None: ...


def untyped(a, b=2, *rest, c, **more):  # type: ignore[no-untyped-def]  # what is tested
    ...


def test_d1_calls_travel_by_their_annotations() -> None:
    signature = Signature(example)
    args, kwargs = signature.decode_call(
        signature.encode_call((1, NOW, Decimal("1.10")), {"c": Colour.RED, "x": b"\xff"})
    )
    assert (args, kwargs) == ([1, NOW, Decimal("1.10")], {"c": Colour.RED, "x": b"\xff"})
    assert signature.decode_call(signature.encode_call((1,), {"b": NOW})) == ([1, NOW], {})
    plain = encode_plain_call((1, "2026-11-23T12:00:00.123456Z"), {"c": "red"})
    assert signature.decode_call(plain) == ([1, NOW], {"c": Colour.RED})
    with pytest.raises(TypeError, match="missing a required argument: 'b'"):
        signature.encode_call((1,), {})
    with pytest.raises(InvalidValueError, match="The argument 'b' of example cannot be used"):
        signature.encode_call((1, "tomorrow"), {})


def test_d1_calls_without_annotations_are_plain_json() -> None:
    signature = Signature(untyped)
    assert signature.decode_call(signature.encode_call((1, (2,), 3), {"c": {"k": NOW}})) == (
        [1, [2], 3],
        {"c": {"k": "2026-11-23T12:00:00.123456Z"}},
    )
