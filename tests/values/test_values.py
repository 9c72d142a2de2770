"""Whatever value, by whatever way, into whatever process: it arrives as it was sent (promises D1 and D2, as properties)."""

from __future__ import annotations

import os
import string
from collections.abc import Callable
from dataclasses import make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from itertools import count
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model
from typing_extensions import TypedDict

from dbos_async import DBOS, DBOSClient, Envelope, Event, SetWorkflowID, Stream, Topic
from dbos_async._workflows import registry
from tests.support.eventually import eventually

T = TypeVar("T")

EACH_IN_ONE_DATABASE = settings(
    max_examples=4,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Values and their types.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


class Colour(Enum):
    RED = "red"
    BLUE = 7


class Unit(StrEnum):
    EUR = "eur"


class Typed(NamedTuple):
    """A declared type, and a value of it."""

    declared: Any
    value: Any


# Offsets from UTC that JSON can say.
OFFSETS = st.just(UTC) | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def unfolded(times: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Without the mark of the second of two equal times, which JSON cannot say."""
    return times.map(lambda when: when.replace(fold=0))


# These types are made at run time, which no type checker follows.
A_LIST: Any = list
A_DICT: Any = dict
A_TUPLE: Any = tuple
A_LITERAL: Any = Literal
MAKE_MODEL: Any = create_model
MAKE_TYPED_DICT: Any = TypedDict

# A kind is a type together with how to make values of it.
Kind = tuple[Any, st.SearchStrategy[Any]]

SCALARS: list[Kind] = [
    (int, st.integers()), (float, NUMBERS), (str, TEXTS), (bool, st.booleans()), (type(None), st.none()),
    (bytes, st.binary(max_size=9)),
    (datetime, unfolded(st.datetimes(timezones=OFFSETS))), (datetime, unfolded(st.datetimes())), (date, st.dates()),
    (time, unfolded(st.times(timezones=OFFSETS))),
    (timedelta, st.timedeltas(timedelta(days=-(10**6)), timedelta(days=10**6))), (UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)), (Colour, st.sampled_from(Colour)), (Unit, st.sampled_from(Unit)),
    (Literal["a", 1], st.sampled_from(["a", 1])), (Any, JSON),
]  # fmt: skip
KEYS: list[Kind] = [
    (str, TEXTS),
    (int, st.integers()),
    (UUID, st.uuids()),
    (date, st.dates()),
    (Unit, st.sampled_from(Unit)),
]

BASE64 = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
_serial = count()


def name_of_its_own(prefix: str) -> str:
    """Pydantic distinguishes types by their names, too."""
    return f"{prefix}{next(_serial)}"


class Box(BaseModel, Generic[T]):
    model_config = BASE64
    content: T


def fields_of(kinds: list[Kind]) -> dict[str, Kind]:
    return dict(zip(string.ascii_lowercase, kinds, strict=False))


def list_of(kinds: list[Kind]) -> Kind:
    declared, values = kinds[0]
    return A_LIST[declared], st.lists(values, max_size=3)


def dict_of(kinds: list[Kind], key: Kind = KEYS[0]) -> Kind:
    declared, values = kinds[0]
    return A_DICT[key[0], declared], st.dictionaries(key[1], values, max_size=3)


def tuple_of(kinds: list[Kind]) -> Kind:
    return A_TUPLE[tuple(declared for declared, _ in kinds)], st.tuples(*(values for _, values in kinds))


def optional(kinds: list[Kind]) -> Kind:
    declared, values = kinds[0]
    return declared | None, st.none() | values


def model_of(kinds: list[Kind]) -> Kind:
    fields = fields_of(kinds)
    required = {name: (kind[0], ...) for name, kind in fields.items()}
    made = MAKE_MODEL(name_of_its_own("Model"), __config__=BASE64, **required)
    return made, st.builds(made, **{name: kind[1] for name, kind in fields.items()})


def dataclass_of(kinds: list[Kind]) -> Kind:
    fields = fields_of(kinds)
    made = make_dataclass(name_of_its_own("Line"), [(name, kind[0]) for name, kind in fields.items()])
    return made, st.builds(made, **{name: kind[1] for name, kind in fields.items()})


def typed_dict_of(kinds: list[Kind]) -> Kind:
    fields = fields_of(kinds)
    made = MAKE_TYPED_DICT(name_of_its_own("Options"), {name: kind[0] for name, kind in fields.items()}, total=False)
    made_of = st.fixed_dictionaries({}, optional={name: kind[1] for name, kind in fields.items()})
    return made, made_of.map(lambda found: {name: found[name] for name in fields if name in found})


def union_of(kinds: list[Kind]) -> Kind:
    """A union whose members have a field with their kind."""
    members: list[Kind] = []
    for place, (declared, values) in enumerate(kinds):
        said = f"kind {place}"
        fields = {"kind": (A_LITERAL[said], said), "value": (declared, ...)}
        made = MAKE_MODEL(name_of_its_own("Member"), __config__=BASE64, **fields)
        members.append((made, st.builds(made, value=values)))
    declared = members[0][0]
    for made, _ in members[1:]:
        declared = declared | made
    if len(members) > 1:
        declared = Annotated[declared, Field(discriminator="kind")]
    return declared, st.one_of([values for _, values in members])


def box_of(kinds: list[Kind]) -> Kind:
    declared, values = kinds[0]
    made = Box[declared]  # type: ignore[valid-type]  # as above
    return made, st.builds(made, content=values)


MAKERS: list[Callable[[list[Kind]], Kind]] = [
    list_of, dict_of, tuple_of, optional, model_of, dataclass_of, typed_dict_of, union_of, box_of,
]  # fmt: skip

SCALAR_KINDS = st.sampled_from(SCALARS) | st.builds(
    dict_of, st.lists(st.sampled_from(SCALARS), min_size=1, max_size=1), st.sampled_from(KEYS)
)


@st.composite
def kinds(draw: st.DrawFn, depth: int = 3) -> Kind:
    if depth == 0 or draw(st.integers(0, 2)) == 0:
        return draw(SCALAR_KINDS)
    make = draw(st.sampled_from(MAKERS))
    return make([draw(kinds(depth - 1)) for _ in range(draw(st.integers(1, 3)))])


@st.composite
def typed_values(draw: st.DrawFn) -> Typed:
    declared, values = draw(kinds())
    return Typed(declared, draw(values))


# Every way that a value can go.

SEEN: list[list[Any]] = []
CASES: list[Typed] = []


def check_same(found: Any, case: Typed, way: str) -> None:
    told = f"{way}: {case.value!r} as {case.declared} arrived as {found!r}"
    assert found == case.value, told
    assert type(found) is type(case.value), told
    assert repr(found) == repr(case.value), told


def register(cases: list[Typed]) -> Any:
    """A workflow that takes and returns these values by its annotations, as a program would that is launched again."""
    declared = A_TUPLE[tuple(case.declared for case in cases)]

    def step_of(case: Typed) -> Any:
        async def made() -> Any:
            return case.value

        made.__annotations__["return"] = case.declared
        return DBOS.step(name="makes a value")(made)

    async def passes(values: Any) -> Any:
        me = str(DBOS.workflow_id)
        seen: list[Any] = [("input", place, value) for place, value in enumerate(values)]
        for place, case in enumerate(cases):
            await DBOS.set_event(Event[Any](f"e{place}", case.declared), values[place])
            await DBOS.write_stream(Stream[Any](f"s{place}", case.declared), values[place])
            await DBOS.send(me, values[place], Topic[Any](f"own{place}", case.declared))
            seen.append(("step", place, await step_of(case)()))
            seen.append(("event", place, await DBOS.get_event(me, Event[Any](f"e{place}", case.declared))))
            seen.append(("own message", place, await DBOS.recv(Topic[Any](f"own{place}", case.declared))))
            seen.append(("message", place, await DBOS.recv(Topic[Any](f"t{place}", case.declared))))
            envelope = await DBOS.recv_envelope(Topic[Any](f"t{place}", case.declared))
            assert isinstance(envelope, Envelope)
            seen.append(("envelope", place, envelope.payload))
            async for value in DBOS.read_stream(me, Stream[Any](f"s{place}", case.declared)):
                seen.append(("stream", place, value))
                break
        SEEN.append(seen)
        await DBOS.recv("end", None)
        return values

    passes.__annotations__.update({"values": declared, "return": declared})
    registry.registered.pop("passes", None)
    return DBOS.workflow(name="passes")(passes)


WAYS = 7
_examples = count()


async def check_all_ways(url: str, cases: list[Typed]) -> None:
    SEEN.clear()
    workflow_id = f"w{next(_examples)}"
    workflow = register(cases)
    async with DBOS(url), DBOSClient(url) as client:
        with SetWorkflowID(workflow_id):
            await DBOS.start_workflow(workflow, tuple(case.value for case in cases))
        for place, case in enumerate(cases):
            topic = Topic[Any](f"t{place}", case.declared)
            await DBOS.send(workflow_id, case.value, topic)
            await client.send(workflow_id, case.value, topic)
        await eventually(lambda: SEEN)
    # Taken over: everything is read again from what was recorded.
    workflow = register(cases)
    async with DBOS(url), DBOSClient(url) as client:
        await eventually(lambda: len(SEEN) == 2)
        for run, seen in enumerate(SEEN):
            assert len(seen) == WAYS * len(cases)
            for way, place, found in seen:
                check_same(found, cases[place], f"{way} of run {run}")
        for side in (DBOS, client):
            for place, case in enumerate(cases):
                check_same(
                    await side.get_event(workflow_id, Event[Any](f"e{place}", case.declared)), case, "event, live"
                )
                async for found in side.read_stream(workflow_id, Stream[Any](f"s{place}", case.declared)):
                    check_same(found, case, "stream, live")
                    break
        await DBOS.send(workflow_id, None, "end")
        with SetWorkflowID(workflow_id):
            result = await (await DBOS.start_workflow(workflow, tuple(case.value for case in cases))).get_result()
        for found, case in zip(result, cases, strict=True):
            check_same(found, case, "result")


@EACH_IN_ONE_DATABASE
@given(st.lists(JSON, min_size=8, max_size=16))
async def test_d1_any_json_value_arrives_unchanged_by_every_way(database_url: str, values: list[Any]) -> None:
    await check_all_ways(database_url, [Typed(Any, value) for value in values])


@EACH_IN_ONE_DATABASE
@given(st.lists(typed_values(), min_size=8, max_size=16))
@example([Typed(bytes, b"[\xed\x92W"), Typed(list[bytes], [b"\xff"]), Typed(tuple[bytes, int], (b"abcd", 1))])
async def test_d1_any_value_of_any_type_arrives_unchanged_by_every_way(database_url: str, cases: list[Typed]) -> None:
    await check_all_ways(database_url, cases)
