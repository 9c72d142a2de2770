"""Which other executors have expired, as one executor sees it.

Clocks of servers jump and differ, so no time that another machine has written decides. An executor looks at the leases of the
others once a second and notes, by its own monotonic clock, since when each has not changed. Two things change: the row, by each
renewal, and the beat, an advisory lock that needs no table and so waits for nothing.

An executor has expired when neither has changed for a whole lease. It also has when its connection is gone, as the server tells by
its free liveness lock, and two seconds have brought neither a new connection nor a renewal. Behind a pooler in transaction mode, or
with ``listen=False``, an executor keeps no session: it has no locks, and only its renewals show that it is alive. While the
observer cannot renew its own lease, for example since the table is locked, the lease of such an executor does not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

LOST_SECONDS: Final = 2.0
"""How long an executor has to come back after its connection was lost."""

PREDECESSOR_SECONDS: Final = 0.5
"""The same for an earlier launch under the same executor_id whose connection was gone at the first look."""

LEFT_SECONDS: Final = 60.0
"""How long the row of an executor stays that has left and had calls under way."""

MAX_PAUSE_SECONDS: Final = 5.0
"""After a longer pause between two looks the observer was away itself, and begins to count anew."""


@dataclass(slots=True)
class _Seen:
    """What was seen of one executor."""

    state: tuple[datetime, int | None]
    """Its lease and its beat."""
    changed_at: float
    unlocked_since: float | None = None
    is_predecessor: bool = False


class Expiry:
    """Notes what it sees of the other executors; times are those of a monotonic clock, in seconds."""

    def __init__(self, executor_id: str) -> None:
        self._executor_id = executor_id
        self.trusts_locks: bool = True
        """Whether a lock that is not held tells that a connection is gone. Else an executor is given its whole lease."""
        self._seen: dict[str, _Seen] = {}
        self._looked_at: float | None = None
        self._incarnation: str | None = None

    @property
    def is_suspicious(self) -> bool:
        """Whether the connection of an executor seems to be lost, so that another look is due soon."""
        return any(each.unlocked_since is not None for each in self._seen.values())

    def look(
        self, rows: Sequence[Any], now: float, lease_seconds: float, *, can_renew: bool = True
    ) -> list[tuple[str, datetime]]:
        """Note what OTHERS has answered; the executors that have expired, each with the lease that it had.

        ``can_renew`` is whether renewals succeed, as far as the observer knows from its own.
        """
        is_first = self._looked_at is None
        passed_seconds = 0.0 if self._looked_at is None else now - self._looked_at
        if passed_seconds > MAX_PAUSE_SECONDS:
            self._seen.clear()
        self._looked_at = now
        if rows[0]["incarnation"] != self._incarnation:
            self._incarnation = rows[0]["incarnation"]
            self._seen.clear()
        others = [row for row in rows if row["id"] is not None]
        self._seen = {
            row["id"]: self._note(row, now, is_first=is_first, can_renew=can_renew, passed_seconds=passed_seconds)
            for row in others
        }
        return [(row["id"], row["lease_until"]) for row in others if self._has_expired(row, now, lease_seconds)]

    def _note(self, row: Any, now: float, *, is_first: bool, can_renew: bool, passed_seconds: float) -> _Seen:
        state = row["lease_until"], row["beat"]
        seen = self._seen.get(row["id"])
        if seen is None:
            is_namesake = row["executor_id"] == self._executor_id
            seen = _Seen(state, now, is_predecessor=is_first and is_namesake and _lacks_lock(row))
        elif seen.state != state:
            seen.state, seen.changed_at, seen.is_predecessor = state, now, False
        elif not (can_renew or row["keeps_session"]):
            seen.changed_at += passed_seconds
        if not _lacks_lock(row) or not self.trusts_locks:
            seen.unlocked_since = None
        elif seen.unlocked_since is None:
            seen.unlocked_since = now
        return seen

    def _has_expired(self, row: Any, now: float, lease_seconds: float) -> bool:
        seen = self._seen[row["id"]]
        if has_left(row):
            return now - seen.changed_at >= LEFT_SECONDS
        if now - seen.changed_at >= lease_seconds:
            return True
        if seen.unlocked_since is None or not row["has_come_back"]:
            return False
        seconds = PREDECESSOR_SECONDS if seen.is_predecessor else LOST_SECONDS
        return now - max(seen.unlocked_since, seen.changed_at) >= seconds


def _lacks_lock(row: Any) -> bool:
    """Whether the connection that should hold the liveness lock is gone."""
    return bool(row["keeps_session"]) and not row["is_locked"]


def has_left(row: Any) -> bool:
    """Whether the executor has shut down, and its row stays for calls that may commit late."""
    lease_until: datetime = row["lease_until"]
    return lease_until.year == 1  # '-infinity'
