"""What a workflow can wait for, and what each wait brings: for `DBOS.wait_first`, `DBOS.watch_event` and `DBOS.read_streams`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol

from typing_extensions import TypeVar

from dbos_async._checks import check_int, check_key
from dbos_async.keys import Event, Stream, key_and_type

T = TypeVar("T", default=Any)
"""The values of a plain name may be anything."""
MAX_VERSION: Final = 2**63 - 1

W_co = TypeVar("W_co", covariant=True)


class Wait(Protocol[W_co]):
    """Something that `DBOS.wait_first` can wait for: ``Wait[X]`` brings an ``X``.

    A `Topic` brings an `Envelope`, a `Question` an `Asked`, an `EventOf` an `EventValue` or `EventEnd`, a `StreamOf` a
    `StreamValue` or `StreamEnd`. A `WorkflowHandle` and a `StepHandle` bring themselves.
    """

    def _brings(self) -> W_co:
        """What a wait for it returns. Only type checkers look at this."""
        ...


@dataclass(frozen=True)
class EventValue(Generic[T]):
    """One version of an event of a workflow.

    ``version`` grows with every value of the event, and not by one. ``set_at`` is the time in UTC at which it was set, by the clock
    of the database.
    """

    workflow_id: str
    key: str
    value: T
    version: int
    set_at: datetime


@dataclass(frozen=True)
class EventEnd:
    """The workflow has ended, and its event gets no later version."""

    workflow_id: str
    key: str


@dataclass(frozen=True)
class StreamValue(Generic[T]):
    """One value of a stream of a workflow, with its place in the stream."""

    workflow_id: str
    key: str
    offset: int
    value: T


@dataclass(frozen=True)
class Rewind:
    """Values were taken back: forget everything from ``offset`` on. What stands of it follows."""

    offset: int


@dataclass(frozen=True)
class StreamEnd:
    """The stream has ended: there is no value at ``offset`` and none behind it, and none will come."""

    workflow_id: str
    key: str
    offset: int


@dataclass(frozen=True)
class EventOf(Generic[T]):
    """The event ``event`` of a workflow, from the first version after ``after`` on::

        won = await DBOS.wait_first(EventOf("order-17", STATUS, after=seen.version), CANCEL)

    ``after=0`` takes the value that is there.
    """

    workflow_id: str
    event: Event[T] | str
    after: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "workflow_id", check_key(self.workflow_id, "workflow_id"))
        if not isinstance(self.event, Event):
            object.__setattr__(self, "event", key_and_type(self.event, Event)[0])
        check_int(self.after, 0, "after", MAX_VERSION)

    @property
    def name_and_type(self) -> tuple[str, Any]:
        """The key of the event, and the declared type of its values."""
        return key_and_type(self.event, Event)

    if TYPE_CHECKING:

        def _brings(self) -> EventValue[T] | EventEnd: ...


@dataclass(frozen=True)
class StreamOf(Generic[T]):
    """The stream ``stream`` of a workflow, from the value at ``offset`` on::

    async for part in DBOS.read_streams(StreamOf(first.workflow_id, TOKENS), StreamOf(second.workflow_id, TOKENS)):
        print(part.workflow_id, part.value)
    """

    workflow_id: str
    stream: Stream[T] | str
    offset: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "workflow_id", check_key(self.workflow_id, "workflow_id"))
        if not isinstance(self.stream, Stream):
            object.__setattr__(self, "stream", key_and_type(self.stream, Stream)[0])
        check_int(self.offset, 0, "offset")

    @property
    def name_and_type(self) -> tuple[str, Any]:
        """The key of the stream, and the declared type of its values."""
        return key_and_type(self.stream, Stream)

    if TYPE_CHECKING:

        def _brings(self) -> StreamValue[T] | StreamEnd: ...
