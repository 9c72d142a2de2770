"""Types of every kind that a program may declare, strategies for values, and the way of an exception there and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, NamedTuple

from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    RootModel,
    computed_field,
    model_validator,
)
from typing_extensions import TypedDict

from dbos_async._serialization.exceptions import decode_error, encode_error

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=5)
    ),
    max_leaves=20,
)


class Colour(Enum):
    RED = "red"


class Model(BaseModel):
    n: int
    when: datetime
    tags: list[str] = []


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


@dataclass
class Point:
    x: float
    y: float


class Pair(NamedTuple):
    a: int
    b: str


NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


class Level(IntEnum):
    LOW = 1


class Unit(StrEnum):
    EUR = "eur"


class Aliased(BaseModel):
    """Its fields have other names when they are read, when they are written, and in Python."""

    a: int = Field(alias="A")
    b: int = Field(1, serialization_alias="B")
    c: int = Field(2, validation_alias="C")


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    numbers: Json[list[int]]

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property; pydantic asks for one
    @property
    def total(self) -> int:
        return sum(self.numbers)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Numbers(RootModel[list[int]]):
    pass


class Wide(Model):
    more: int = 5


class Bag(BaseModel):
    anything: Any = None
    maybe: float | None = None
    by_number: dict[int, str] = {}


class Options(TypedDict, total=False):
    note: bytes
    retries: int


class Rounded(BaseModel):
    x: Annotated[float, PlainSerializer(lambda x: round(x, 1))]


class Moody(BaseModel):
    n: int

    @model_validator(mode="after")
    def _look(self) -> Moody:
        if self.n == 7:
            raise KeyError("a bug of the validator")
        return self


@dataclass
class Blob:
    data: bytes


@dataclass(eq=False)
class Incomparable:
    n: int


@dataclass
class Counted:
    n: int
    seen: int = field(default=0, init=False)
    cache: int = field(default=0, init=False, compare=False)


def counted(seen: int = 0, cache: int = 0) -> Counted:
    made = Counted(1)
    made.seen, made.cache = seen, cache
    return made


class Texts(BaseModel):
    data: bytes


class NoModel:
    pass


def names(cases: Sequence[tuple[Any, ...]]) -> list[str]:
    """Ids that are the same in every process."""
    return [f"{place}-{case[0]}-{type(case[1]).__name__}" for place, case in enumerate(cases)]


LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: list[Any] = []
for _ in range(3000):
    DEEP = [DEEP]


ANYTHING = st.recursive(
    st.none() | st.floats() | st.text(st.characters()) | st.binary() | st.builds(NoModel) | st.datetimes(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters()) | st.integers(), inner)
        | st.builds(Bag, anything=inner)
        | st.tuples(inner)
    ),
    max_leaves=10,
)


def there_and_back(error: BaseException) -> Exception:
    return decode_error(encode_error(error))
