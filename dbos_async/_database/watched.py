"""What a process without a listener asks the database for in its next poll.

A wait that has just begun is often over soon. So it is asked for in each of the next polls, and later with all others, one part of
them after the other.

Runs are told when their workflows are cancelled. A process may have many, and nothing changes among them for long: one look tells
whether it does, and only then each is asked for. A new run is asked for together with such a look. Otherwise its workflow could
change before the run is a part of what is compared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Final

from dbos_async._database.change_keys import LOCAL, NamedKey

FRESH_LOOKS: Final = 10
"""A wait that has begun, or has seen a change, is asked for in so many polls, as soon as they may come."""

MOST: Final = 1000
"""A poll asks for so many things: about five milliseconds of work for the server and this process."""


RUNS_EVERY_SECONDS = 0.4
"""How often a process looks whether its runs are cancelled."""


class Watched:
    """Something that this process waits for."""

    __slots__ = ("id", "is_gone", "key", "kind", "looks", "name", "seen")

    def __init__(self, key: bytes, kind: str, names: tuple[str, ...], seen: str | None = None) -> None:
        self.key: Final = key
        self.kind: Final = kind
        self.id: Final = names[0] if names else ""
        self.name: Final = names[1] if len(names) > 1 else ""
        self.seen = seen
        """The version that was told last."""
        self.looks = FRESH_LOOKS
        """In how many polls it is asked for before it counts as old."""
        self.is_gone = False
        """Whether nobody waits for it any more."""

    @property
    def is_old(self) -> bool:
        """Whether it was asked for in vain for a while."""
        return self.looks <= 0


class Rota:
    """All that waiters of this process wait for."""

    def __init__(self) -> None:
        self._waits: dict[bytes, Watched] = {}
        self.fresh: Final[deque[Watched]] = deque()
        """What to ask for in the next poll."""
        self._old: Final[deque[Watched]] = deque()
        """All others, those first that were asked for longest ago."""

    @property
    def parts(self) -> int:
        """In how many polls all of them are asked for."""
        return -(-len(self._waits) // MOST)

    def begin(self, key: bytes) -> None:
        """Ask for the changes behind this key, at first often."""
        if not isinstance(key, NamedKey):
            raise TypeError(f"A key is made by a function of change_keys, and {key!r} is not.")
        if key.kind in LOCAL:
            return
        before = self._waits.get(key)
        if before is not None:
            before.is_gone = True  # it may be old
        wait = self._waits[key] = Watched(key, key.kind, key.names, None if before is None else before.seen)
        self.fresh.append(wait)

    def end(self, key: bytes) -> None:
        """Ask for it no longer."""
        wait = self._waits.pop(key, None)
        if wait is not None:
            wait.is_gone = True

    def take_fresh(self) -> list[Watched]:
        """The waits that are asked for in every poll."""
        return _taken(self.fresh, MOST)

    def take_old(self, most: int) -> list[Watched]:
        """The next part of all others."""
        return _taken(self._old, most)

    def put_back(self, asked: Iterable[Watched]) -> None:
        """These were asked for."""
        for each in asked:
            if not each.is_gone:
                each.looks -= 1
                (self.fresh if each.looks > 0 else self._old).append(each)


class RunWatch:
    """The runs of this process. When something has changed among them, a round of polls asks for each."""

    def __init__(self) -> None:
        self._runs: Final[dict[bytes, Watched]] = {}
        self._all = Watched(b"", "runs", ())
        """The look at all runs of an executor together."""
        self._new: Final[deque[Watched]] = deque()
        """Those that were not asked for yet."""
        self._round: Final[deque[Watched]] = deque()
        """What is left of the round under way."""
        self._has_changed = False
        """Whether another round is to come."""
        self._round_at = -inf
        """When the last round has begun."""
        self._look_at = -inf

    def begin(self, key: bytes, workflow_id: str, attempt: int) -> None:
        """Ask whether this run still owns its workflow."""
        self.end(key)
        run = self._runs[key] = Watched(key, "run", (workflow_id, str(attempt)))
        self._new.append(run)

    def end(self, key: bytes) -> None:
        """Ask for it no longer."""
        run = self._runs.pop(key, None)
        if run is not None:
            run.is_gone = True

    @property
    def due_at(self) -> float:
        """When to ask next."""
        if not self._runs:
            return inf
        return min(self._look_at, self._round_at + RUNS_EVERY_SECONDS) if self._has_changed else self._look_at

    def take(self, owner: str, most: int, now: float) -> list[Watched]:
        """The look at all runs of this executor, and some of them one by one."""
        if self._all.id != owner:
            self._all = Watched(b"", "runs", (owner,))
        if self._has_changed and not self._round:
            self._round.extend(self._runs.values())
            self._has_changed, self._round_at = False, now
        taken = [self._all, *_taken(self._new, most)]
        taken += _taken(self._round, most - len(taken))
        self._look_at = now if self._round or self._new else now + RUNS_EVERY_SECONDS
        return taken

    def put_back(self, asked: Iterable[Watched]) -> None:
        """These could not be asked for."""
        self._new.extend(each for each in asked if each is not self._all)
        self._look_at = -inf

    def note_change(self) -> None:
        """Another run is there, or not there any more, or its workflow has changed."""
        self._has_changed = True


def _taken(lane: deque[Watched], most: int) -> list[Watched]:
    """So many of the first ones, without those that are gone."""
    taken: list[Watched] = []
    while lane and len(taken) < most:
        each = lane.popleft()
        if not each.is_gone:
            taken.append(each)
    return taken
