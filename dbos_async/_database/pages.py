"""Pages of lists: a cursor says where a page ended and what could be seen when it was read.

A list is read in rounds. The first shows all that can be seen when it begins, in the order of the list, page by page. The next
round shows what was committed since, although it may stand before what was shown: a start or a send in a transaction that stayed
open. So nothing is shown twice, and nothing is skipped. The cursor has the position itself, so its row may be deleted.
"""

from __future__ import annotations

import base64
import json
import re
from collections import OrderedDict
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from dbos_async._checks import excerpt
from dbos_async.errors import InvalidArgumentError

MAX_REMEMBERED: Final = 1000

_SNAPSHOT: Final = re.compile(r"[0-9]{1,19}:[0-9]{1,19}:(?:[0-9]{1,19}(?:,[0-9]{1,19})*)?")


class Cursor(NamedTuple):
    """Where a page ended."""

    shown: str | None
    """The snapshot of the round before; ``None`` in the first round."""
    shown_floor: datetime | None
    """What is older than this was seen in that round."""
    seen: str
    """The snapshot of this round."""
    seen_floor: datetime
    began: datetime
    """When the first page was read."""
    position: tuple[Any, ...]

    @classmethod
    def after(cls, before: Cursor | None, record: Any, position: tuple[Any, ...]) -> Cursor:
        """The cursor behind a row of the page that follows another one, ``None`` for a first page."""
        if before is None:
            return cls(None, None, record["snapshot"], record["floor"], record["now"], position)
        if record["part"] == 0:
            return before._replace(position=position)
        return cls(
            before.seen, before.seen_floor, record["snapshot"], record["floor"], before.began, position
        )  # fmt: skip

    @property
    def text(self) -> str:
        """The cursor as people pass it around."""
        fields = [field.isoformat() if isinstance(field, datetime) else field for field in (*self[:5], *self.position)]
        return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()

    @classmethod
    def of(cls, text: object, *kinds: type) -> Cursor:
        """The cursor that such a text stands for; ``kinds`` are the types of its position."""
        try:
            fields = json.loads(base64.urlsafe_b64decode(str(text).encode()))
            shown, shown_floor, seen, seen_floor, began, *position = fields
            if not (shown is None or _is_snapshot(shown)) or not _is_snapshot(seen):
                raise ValueError
            made = tuple(_made(field, kind) for field, kind in zip(position, kinds, strict=True))
            floor = None if shown is None else _time(shown_floor)
            return cls(shown, floor, seen, _time(seen_floor), _time(began), made)
        except (ValueError, TypeError, RecursionError, OverflowError):
            raise InvalidArgumentError(
                f"A cursor is what a row of an earlier page has as its cursor, and {excerpt(text)} is none."
            ) from None


class Pages:
    """The cursors of the last pages that this process has read: whoever goes on names the last id of a page."""

    def __init__(self) -> None:
        self._cursors: OrderedDict[Hashable, Cursor] = OrderedDict()

    def remember(self, of: Hashable, last_id: str, cursor: Cursor) -> None:
        """Remember where a page of a list ended, and what its last id was."""
        key = of, last_id
        self._cursors[key] = cursor
        self._cursors.move_to_end(key)
        if len(self._cursors) > MAX_REMEMBERED:
            self._cursors.popitem(last=False)

    def find(self, of: Hashable, last_id: str) -> Cursor | None:
        """Where the page of this list with this last id ended."""
        return self._cursors.get((of, last_id))


def unknown_after(last_id: object) -> InvalidArgumentError:
    """The error of a page that begins after an id of which neither this process nor the database knows where it stood."""
    return InvalidArgumentError(
        f"after is the last id of an earlier page, and {excerpt(str(last_id))} is not known: give the cursor of that row instead."
    )


def _is_snapshot(text: str) -> bool:
    if not _SNAPSHOT.fullmatch(text):
        return False
    first, end, under_way = text.split(":")
    numbers = [int(first), *map(int, under_way.split(",") if under_way else ()), int(end)]
    return numbers[0] > 0 and numbers == sorted(numbers) and (not under_way or numbers[-2] < numbers[-1])


def _made(field: Any, kind: type) -> Any:
    if kind is datetime:
        return _time(field)
    if type(field) is not kind or (isinstance(field, int) and abs(field) >= 2**63):
        raise ValueError
    if isinstance(field, str) and "\0" in str(field.encode(), "utf-8"):  # A lone surrogate raises, too.
        raise ValueError
    return field


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError
    return time.astimezone(UTC)
