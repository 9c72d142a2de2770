"""What a process without a listener asks the database for in its next poll.

A wait that has just begun is often over soon. So it is asked for in each of the next polls, and later with all others, one part of
them after the other. A process may wait for messages in many queues, and all are quiet for long. So one look at what waits in all
queues of the database tells whether anything has changed since each was asked for, and then only each is asked for again.

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


RUNS_EVERY_SECONDS = 0.5
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
        self._queues: Final[deque[Watched]] = deque()
        """The old waits for messages, those first that were asked for longest ago."""
        self._others: Final[deque[Watched]] = deque()
        """All other old waits, in the same order."""
        self._all_queues: Final = Watched(b"", "queues", ())
        """The look at all queues of the database together."""
        self._is_compared = False
        """Whether each old wait for messages was asked for since the last look at all queues, or will be in the round under way."""
        self._begins_round = False
        """Whether the present poll is the first one of a round."""
        self._left = 0
        """How many waits are still to be asked for in the round under way."""

    @property
    def has_waits(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waits)

    @property
    def parts(self) -> int:
        """In how many polls all old waits are asked for."""
        waits = len(self._others) + (0 if self._can_compare else len(self._queues))
        return max(-(-waits // MOST), 1)

    @property
    def _can_compare(self) -> bool:
        """Whether a look at all queues tells if there is anything new in one of them. It does not if too much lies there."""
        return self._is_compared and self._all_queues.seen is not None

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

    def take_old(self, most: int, *, one_by_one: bool) -> list[Watched]:
        """The next part of all others. Unless all waits are asked for ``one_by_one``, those for messages may be left out."""
        taken = _taken(self._others, most // 2 if self._queues else most)
        self._begins_round = False
        if not self._left and one_by_one:
            self._is_compared, self._left = False, len(self._queues)
        elif not self._left and self._queues:
            taken.append(self._all_queues)
            if not self._can_compare:
                self._begins_round = self._is_compared = True
                self._left = len(self._queues)
        queues = _taken(self._queues, min(self._left, most - len(taken)))
        self._left = self._left - len(queues) if self._queues else 0
        return [*taken, *queues]

    def put_back(self, asked: Iterable[Watched]) -> None:
        """These were asked for."""
        for each in asked:
            if not each.is_gone and each is not self._all_queues:
                each.looks -= 1
                lane = self.fresh if each.looks > 0 else self._queues if each.kind == "message" else self._others
                lane.append(each)

    @property
    def compares(self) -> bool:
        """Whether the present poll looks at all queues, and asks for none of them."""
        return not self._left and not self._begins_round and self._is_compared

    def forget(self) -> None:
        """A poll has failed."""
        self._left, self._is_compared = 0, False

    def note_queues(self) -> bool:
        """The look at all queues has found a change. False if the same poll has begun to ask for each."""
        self._is_compared = self._begins_round
        return not self._begins_round


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
