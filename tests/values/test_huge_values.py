"""Values of eight megabytes that a sender made to be slow: each is handled in a moment, and its error is short (D2, D5)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dbos_async import DBOS, InvalidMessageError, InvalidValueError, RecordedError, Topic
from dbos_async._serialization.exceptions import MAX_ERROR_LENGTH, decode_error, encode_error
from dbos_async._serialization.signature import Signature
from dbos_async._serialization.values import decode_value, encode_value

SIZE = 8 * 2**20
MAX_SECONDS = 2.0  # of the processor: what these guard against takes minutes
MAX_LENGTH = 1000
ONE_HASH = 2**61 - 1
"""The hash of each of its multiples is 0."""


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Four(BaseModel):
    a: int
    b: int
    c: int
    d: int


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int = 1


class Tree(BaseModel):
    children: list[Tree] = []
    names: list[str] = []


class Frozen(BaseModel, frozen=True):
    number: int


@dataclass
class Record:
    names: list[str]


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


def _list(item: str, size: int = SIZE) -> str:
    return f"[{','.join([item] * (size // (len(item) + 1)))}]"


def _object(value: str, size: int = SIZE) -> str:
    return "{" + ",".join(f'"k{place}":{value}' for place in range(size // 13)) + "}"


def _tag(phrase: str) -> str:
    return f'{{"kind":"{phrase * (SIZE // len(phrase))}"}}'


def _colliding(form: str, size: int = SIZE) -> list[str]:
    return [form % (ONE_HASH * place) for place in range(2, size // 24)]


WRONG: dict[str, Callable[[], tuple[str, Any]]] = {
    "a list of wrong items": lambda: (_list("0"), list[str]),
    "a set of wrong items": lambda: (_list("0"), set[str]),
    "a tuple of wrong items": lambda: (_list("0"), tuple[str, ...]),
    "a list of objects without their fields": lambda: (_list("{}"), list[Four]),
    "a list for a union": lambda: (_list("0"), list[Cat | Four]),
    "a list of objects without a tag": lambda: (_list("{}"), list[Pet]),
    "a list in a model": lambda: (f'{{"names":{_list("0")}}}', Tree),
    "a list in a dataclass": lambda: (f'{{"names":{_list("0")}}}', Record),
    "lists in the models of a list": lambda: (_list('{"names":[0,0]}'), list[Tree]),
    "infinite numbers": lambda: (_list("NaN"), list[float]),
    "a dict of wrong keys": lambda: (_object("0"), dict[int, int]),
    "a dict of wrong values": lambda: (_object("0"), dict[str, str]),
    "keys that a model forbids": lambda: (_object("0"), Closed),
    "one key": lambda: (f'{{"{"k" * SIZE}":0}}', Closed),
    "one key of a dict": lambda: (f'{{"{"k" * SIZE}":"x"}}', dict[str, int]),
    "deep nesting": lambda: ("[" * (SIZE // 2) + "]" * (SIZE // 2), Any),
    "deep nesting in models": lambda: ('{"children":[' * (SIZE // 16) + "]}" * (SIZE // 16), Tree),
    "an integer": lambda: ("9" * SIZE, int),
    "an integer as text": lambda: (f'"{"9" * SIZE}"', int),
    "an integer of no type": lambda: ("9" * SIZE, Any),
    "an exponent": lambda: ("1e" + "9" * SIZE, Any),
    "runs of digits": lambda: (f'["{("1" * 198 + "x") * (SIZE // 199)}", 1e999]', Any),
    "a literal": lambda: (f'"{"x" * SIZE}"', Literal["a"]),
    "a text for a number": lambda: (f'"{"x" * SIZE}"', Decimal),
    "blanks": lambda: (" " * SIZE + "x", int),
    "no end": lambda: ('"' + "x" * SIZE, str),
    "surrogates": lambda: (f'"{chr(92)}ud800{"x" * SIZE}"', str),
    "a phrase of types": lambda: (_tag("Unable to serialize unknown type: <class '"), Pet),
    "a phrase of schemas": lambda: (_tag("Unable to generate pydantic-core schema for "), Pet),
    "a phrase of warnings": lambda: (_tag("Expected `["), Pet),
    "a set of one hash": lambda: (f"[{','.join(_colliding('%d'))}]", set[int]),
    "a dict of one hash": lambda: ("{" + ",".join(_colliding('"%d":0')) + "}", dict[int, int]),
    "a counter of one hash": lambda: ("{" + ",".join(_colliding('"%d":0')) + "}", Counter[int]),
    "decimals of one hash": lambda: (f"[{','.join(_colliding('%d'))}]", frozenset[Decimal]),
    "UUIDs of one hash": lambda: (
        f"[{','.join(chr(34) + str(UUID(int=ONE_HASH * place)) + chr(34) for place in range(2, SIZE // 39))}]",
        set[UUID],
    ),
    "tuples of one hash": lambda: (f"[{','.join(_colliding('[%d,0]'))}]", set[tuple[int, int]]),
    "models of one hash": lambda: ("[" + ",".join(_colliding('{"number":%d}')) + "]", set[Frozen]),
}


def _timed(act: Callable[[], object]) -> float:
    """The time of the processor that this takes, the least of some: other programs may be in the way of one."""
    least = float("inf")
    for _ in range(4):
        began = time.thread_time()
        act()
        least = min(least, time.thread_time() - began)
        if least < MAX_SECONDS:
            break
    return least


@pytest.mark.parametrize("name", WRONG)
def test_d2_a_huge_wrong_value_is_refused_in_a_moment_and_in_short(name: str) -> None:
    text, declared = WRONG[name]()

    def refuse() -> None:
        with pytest.raises(InvalidValueError) as raised:
            decode_value(text, declared)
        assert len(str(raised.value)) < MAX_LENGTH
        assert str(raised.value).isprintable()
        assert len(encode_error(raised.value)) < 30 * MAX_LENGTH

    assert _timed(refuse) < MAX_SECONDS


def test_d2_the_memory_for_a_huge_wrong_value_is_linear() -> None:
    program = f"""
import resource
from dbos_async._serialization.values import decode_value
text = "[" + "0," * {SIZE // 2} + "0]"
decode_value("[0]", list[str | int])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_value(text, list[str])
except ValueError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert int(done.stdout) * 1024 < 40 * SIZE  # the parsed text alone takes half of that


def test_d2_only_the_first_wrong_item_of_a_huge_list_is_told_and_all_of_a_small_one() -> None:
    with pytest.raises(InvalidValueError, match=r": 7: Input should be a valid string\.$") as raised:
        decode_value('["x","x","x","x","x","x","x",' + "0," * 10_000 + "0]", list[str])
    assert [(one["type"], one["loc"]) for one in raised.value.details] == [("string_type", [7])]
    with pytest.raises(InvalidValueError, match=r"\(and 2 more\)"):
        decode_value("[0,0,0]", list[str])
    with pytest.raises(InvalidValueError, match=r"k0: Extra inputs are not permitted \(and 76,\d+ more\)"):
        decode_value(_object("0", 1_000_000), Closed)
    behind = '{"a":' + '"' + " " * 100_000 + '1",' + _object("0", 1_000_000)[1:]
    with pytest.raises(InvalidValueError, match="very many places"):
        decode_value(behind, Closed)


GOOD: dict[str, Callable[[], tuple[str, Any]]] = {
    "a set": lambda: (str(list(range(10_000))), set[int]),
    "two numbers of one hash, again and again": lambda: (str([-1, -2] * 5_000), set[int]),
    "a dict": lambda: ("{" + ",".join(f'"{place}":[{place}]' for place in range(10_000)) + "}", dict[int, list[int]]),
    "bytes": lambda: (_list('"AAEC"', 70_000), list[bytes]),
    "models": lambda: (_list('{"children":[{"names":["x"]}]}', 90_000), list[Tree]),
    "a union": lambda: (_list('{"kind":"dog"}', 70_000), list[Pet]),
    "members in their order": lambda: (_list('"7"', 70_000), list[int | str]),
    "dataclasses": lambda: (_list('{"names":["x"]}', 70_000), list[Record]),
    "any": lambda: (_list('{"a":[1.5]}', 70_000), list[Any]),
}


@pytest.mark.parametrize("name", GOOD)
def test_d1_a_large_value_arrives_as_a_small_one_does(name: str) -> None:
    text, declared = GOOD[name]()
    value = decode_value(text, declared)
    count = len(value)
    small = text[: text.index(",", 40)] + ("}" if text[0] == "{" else "]")
    for one, other in zip(decode_value(small, declared), value, strict=False):
        assert (type(one), one) == (type(other), other)
    assert decode_value(encode_value(value, declared), declared) == value
    assert len(value) == count


def test_d1_a_validator_that_decodes_another_value_keeps_its_own_count_of_hashes() -> None:
    ordinary = str(list(range(5_000)))

    class Outer(BaseModel):
        numbers: set[int]
        others: str

        @model_validator(mode="after")
        def _read(self) -> Outer:
            assert len(decode_value(self.others, set[int])) == 5_000
            return self

    value = decode_value(f'{{"numbers":{ordinary},"others":"{ordinary}"}}', Outer)
    assert len(value.numbers) == 5_000
    with pytest.raises(InvalidValueError, match="of the same hash"):
        decode_value(
            f'[{{"numbers":{ordinary},"others":"{ordinary}"}},{{"numbers":[{",".join(_colliding("%d", 99_999))}],"others":""}}]',
            list[Outer],
        )


def test_d2_a_huge_call_is_decoded_or_refused_in_a_time_linear_in_its_size() -> None:
    def takes_text(a: str) -> None: ...
    def takes_numbers(*a: int, **k: int) -> None: ...

    size = SIZE // 4
    for function, args, kwargs, fits in (
        (takes_text, _list("0", size), "{}", False),
        (takes_text, f"[{_list('0', size)}]", "{}", False),
        (takes_numbers, _list("0", size), "{}", True),
        (takes_numbers, _list('"x"', size), "{}", False),
        (takes_numbers, "[]", _object("0", size), True),
        (takes_numbers, "[]", _object('"x"', size), False),
        (takes_text, "[]", _object("0", size), True),
    ):
        signature = Signature(function)
        text = f'{{"args":{args},"kwargs":{kwargs}}}'

        def decode(signature: Signature = signature, text: str = text, fits: bool = fits) -> None:
            if fits:
                signature.decode_call(text, "w")
                return
            with pytest.raises(InvalidValueError) as raised:
                signature.decode_call(text, "w")
            assert len(str(raised.value)) < MAX_LENGTH

        assert _timed(decode) < MAX_SECONDS


def test_d2_a_huge_record_of_an_error_is_read_in_a_moment() -> None:
    most, members = MAX_ERROR_LENGTH, _list('{"type":""}', MAX_ERROR_LENGTH)
    for size, fields in (
        (SIZE, f'"x","message":"{"x" * SIZE}"'),
        (SIZE, f'"x","notes":{_list("0")}'),
        (most, f'"x","notes":{_list("0", most)}'),
        (most, f'"builtins:{"a." * (most // 2)}"'),
        (most, f'"builtins:ExceptionGroup","args":[""],"exceptions":{members}'),
        (most, f'"builtins:ValueError","args":{_list("0", most)}'),
    ):
        text = f'{{"type":{fields}}}'
        assert len(text) >= size - 30
        found: list[Exception] = []
        assert _timed(lambda text=text, found=found: found.append(decode_error(text, "a test"))) < MAX_SECONDS  # type: ignore[misc]  # the defaults bind the variables of the loop
        assert _timed(lambda found=found: encode_error(found[-1])) < MAX_SECONDS  # type: ignore[misc]  # as above
        if size == SIZE or members in text:
            assert isinstance(found[-1], RecordedError)
            assert len(str(found[-1])) < MAX_LENGTH


def test_d2_an_error_with_very_many_arguments_keeps_the_first_and_says_so() -> None:
    error = decode_error(encode_error(ValueError(*range(20_000))))
    assert error.args == tuple(range(10_000))
    assert error.__notes__ == ["10000 more arguments of this error are not recorded."]


@DBOS.workflow()
async def reads_pets() -> list[str]:
    seen = []
    for _ in range(3):
        try:
            await DBOS.recv(Topic[Cat | Dog]("pet", Pet))
        except InvalidMessageError as error:
            seen.append(str(error))
    return seen


async def test_d2_d5_huge_messages_keep_the_loop_for_no_longer_than_a_moment(database_url: str) -> None:
    async with DBOS(database_url):
        handle = await DBOS.start_workflow(reads_pets)
        messages = [
            {"kind": "Unable to serialize unknown type: <class '" * 190_000},
            [0] * 2_000_000,
            {"k" * 8_000_000: 0},
        ]
        for message in messages:
            await DBOS.send(handle.workflow_id, message, "pet")
        sentences = await handle.get_result()
        assert len(sentences) == 3
        for sentence, listed in zip(sentences, await DBOS.list_messages(handle.workflow_id), strict=True):
            assert len(sentence) < MAX_LENGTH
            assert listed.rejected is not None
            assert len(listed.rejected) < 30 * MAX_LENGTH
