"""Leases: which executors have expired, and races of renewing, removing and freeing, forced by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from dbos_async._executor import claiming
from dbos_async._lifecycle import leases, leftovers
from dbos_async._lifecycle.expiry import LEFT_SECONDS, LOST_SECONDS, PREDECESSOR_SECONDS, Expiry
from dbos_async._workflows import control, start
from tests.support.statements import execute

LEASE = datetime(2026, 1, 1, tzinfo=UTC)
NEVER = datetime(1, 1, 1, tzinfo=UTC)

ADD = """
    insert into dbos_async.executors (id, executor_id, workflow_names, lease_until)
    values ($1, $1, '{}', now() + interval '1 hour')
"""

OWN = """
    insert into dbos_async.workflows (id, name, input, start_id, attempt, owner, claimed_at)
    select name || n, 'f', '{}', gen_random_uuid(), 1, $1, now() from generate_series(1, 3) as n, text($1) as name
"""

OWNERS = """
    select array_agg(id || ' ' || coalesce(owner, '-') || ' ' || recoveries order by id)
    from dbos_async.workflows where id not in ('w', 'other')
"""


def seen(
    lease: int,
    *,
    beat: int = 0,
    is_locked: bool = True,
    has_come_back: bool = True,
    life: str = "1",
    keeps_session: bool = True,
) -> list[Any]:
    return [
        {
            "incarnation": life, "id": "other", "executor_id": "other", "lease_until": LEASE + timedelta(seconds=lease),
            "beat": beat, "is_locked": is_locked, "has_come_back": has_come_back, "keeps_session": keeps_session,
        }
    ]  # fmt: skip


def test_w10_an_executor_expires_when_neither_its_lease_nor_its_beat_has_changed() -> None:
    expiry = Expiry("me")
    assert expiry.look(seen(0), 0.0, 15.0) == []
    for second in range(1, 30):
        assert expiry.look(seen(0, beat=second), second, 15.0) == [], "its renewals are refused, and its beat goes on"
    for second in range(30, 44):
        assert expiry.look(seen(second - 100, beat=29), second, 15.0) == [], (
            "its lease changes, though the clock went back"
        )
    for second in range(44, 58):
        assert expiry.look(seen(-57, beat=29), second, 15.0) == []
    assert expiry.look(seen(-57, beat=29), 58.0, 15.0) == [("other", LEASE - timedelta(seconds=57))]


def test_w10_an_observer_that_was_away_begins_to_count_anew() -> None:
    expiry = Expiry("me")
    expiry.look(seen(0), 0.0, 15.0)
    assert expiry.look(seen(0), 100.0, 15.0) == []
    assert expiry.look(seen(0), 104.0, 15.0) == []
    assert [bool(expiry.look(seen(0), 100.0 + second, 15.0)) for second in range(5, 16)] == [False] * 10 + [True]


def test_w10_an_executor_that_keeps_no_session_lives_by_its_renewals() -> None:
    expiry = Expiry("other")
    for second in range(0, 60, 5):
        assert expiry.look(seen(second, is_locked=False, keeps_session=False), second, 15.0) == []
        assert not expiry.is_suspicious
    for second in range(59, 70, 5):
        assert expiry.look(seen(55, is_locked=False, keeps_session=False), second, 15.0) == []
    assert expiry.look(seen(55, is_locked=False, keeps_session=False), 70.0, 15.0) != []


def test_w10_a_lease_does_not_run_while_nobody_can_renew() -> None:
    expiry, without = Expiry("me"), seen(0, is_locked=False, keeps_session=False)
    assert expiry.look(without, 0.0, 15.0) == []
    for second in range(5, 60, 5):
        assert expiry.look(without, second, 15.0, can_renew=False) == []
    for second in (60, 65):
        assert expiry.look(without, second, 15.0) == []
    assert expiry.look(without, 70.0, 15.0) != []


def test_w2_an_executor_without_its_connection_has_two_seconds_to_come_back() -> None:
    expiry = Expiry("me")
    expiry.look(seen(0), 0.0, 15.0)
    assert expiry.look(seen(0, is_locked=False), 1.0, 15.0) == []
    assert bool(expiry.is_suspicious)
    assert expiry.look(seen(1, is_locked=False), 2.0, 15.0) == [], "it was renewed"
    assert expiry.look(seen(1, is_locked=False), 2.0 + LOST_SECONDS - 0.1, 15.0) == []
    assert expiry.look(seen(1, is_locked=True), 4.0, 15.0) == []
    assert bool(expiry.is_suspicious) is False
    assert expiry.look(seen(1, is_locked=False), 5.0, 15.0) == []
    assert expiry.look(seen(1, is_locked=False), 5.0 + LOST_SECONDS, 15.0) != []


def test_w5_after_a_promotion_of_the_server_nobody_expires_before_a_whole_lease() -> None:
    expiry = Expiry("me")
    expiry.look(seen(0), 0.0, 15.0)
    for second in range(1, 14):
        expiry.look(seen(0), second, 15.0)
    for second in range(14, 29):
        gone = seen(0, is_locked=False, has_come_back=False, life="2")
        assert expiry.look(gone, second, 15.0) == []
    assert expiry.look(seen(0, is_locked=False, has_come_back=False, life="2"), 29.0, 15.0) != []


def test_w2_an_executor_that_has_left_stays_for_calls_that_commit_late() -> None:
    expiry = Expiry("me")
    left: list[Any] = [{**seen(0, is_locked=False)[0], "lease_until": NEVER}]
    for second in range(int(LEFT_SECONDS)):
        assert expiry.look(left, second, 15.0) == []
    assert expiry.look(left, LEFT_SECONDS, 15.0) == [("other", NEVER)]


def test_w2_an_earlier_launch_under_the_same_executor_id_has_half_a_second() -> None:
    expiry = Expiry("other")
    assert expiry.look(seen(0, is_locked=False), 0.0, 15.0) == []
    assert expiry.look(seen(0, is_locked=False), PREDECESSOR_SECONDS - 0.1, 15.0) == []
    assert expiry.look(seen(0, is_locked=False), PREDECESSOR_SECONDS, 15.0) != []


def test_w10_a_live_executor_of_the_same_executor_id_has_two_seconds_like_all_others() -> None:
    expiry = Expiry("other")
    expiry.look(seen(0), 0.0, 15.0)
    assert expiry.look(seen(0, is_locked=False), 1.0, 15.0) == []
    assert expiry.look(seen(0, is_locked=False), 2.9, 15.0) == []
    returned = Expiry("other")
    returned.look(seen(0, is_locked=False), 0.0, 15.0)
    returned.look(seen(1), 0.3, 15.0)
    assert returned.look(seen(1, is_locked=False), 0.4, 15.0) == []
    assert returned.look(seen(1, is_locked=False), 2.0, 15.0) == []


async def test_w10_an_executor_that_renews_its_lease_at_this_moment_is_not_removed(one: Any, two: Any) -> None:
    await one.execute(ADD, "other")
    (row,) = await execute(two, leases.OTHERS, ("me", 15.0))
    await one.execute("begin")
    await execute(one, leases.RENEW, ("other", "other", None, "[]", 15.0, True))
    assert await execute(two, leases.EXPIRE, ("other", row["lease_until"])) == [], "the row is locked"
    await one.execute("commit")
    assert await execute(two, leases.EXPIRE, ("other", row["lease_until"])) == [], "the lease is another one"
    (row,) = await execute(two, leases.OTHERS, ("me", 15.0))
    assert [r["id"] for r in await execute(two, leases.EXPIRE, ("other", row["lease_until"]))] == ["other"]
    (answer,) = await execute(one, leases.RENEW, ("other", "other", None, "[]", 15.0, True))
    assert answer["is_new"], "it hears that it was removed"


async def test_w10_what_has_no_owner_is_freed_and_what_is_locked_follows(one: Any, two: Any) -> None:
    for owner in ("dead", "left", "live"):
        await one.execute(OWN, owner)
    await one.execute(ADD, "me")
    await one.execute(ADD, "live")
    await one.execute(ADD, "left")
    await one.execute("update dbos_async.executors set lease_until = '-infinity' where id = 'left'")
    await one.execute("begin")
    await one.execute("select from dbos_async.workflows where id in ('dead1', 'left1') for share")
    (answer,) = await execute(two, leases.FREE, (1000, b"d"))
    assert answer["workflows"] == 4
    locked = ["dead1 dead 0", "dead2 - 1", "dead3 - 1", "left1 left 0", "left2 - 0", "left3 - 0"]
    live = ["live1 live 0", "live2 live 0", "live3 live 0"]
    assert await two.fetchval(OWNERS) == locked + live
    await one.execute("commit")
    (answer,) = await execute(two, leases.FREE, (1000, b"d"))
    assert answer["workflows"] == 2
    assert await two.fetchval(OWNERS) == [
        "dead1 - 1", "dead2 - 1", "dead3 - 1", "left1 - 0", "left2 - 0", "left3 - 0", *live,
    ]  # fmt: skip
    (answer,) = await execute(two, leases.FREE, (1000, b"d"))
    assert answer["workflows"] == 0


@pytest.mark.parametrize(
    ("has_calls_left", "locks", "stays"), [(False, False, False), (True, False, True), (False, True, True)]
)
async def test_w10_an_executor_that_leaves_stays_known_while_something_may_follow(
    one: Any, two: Any, has_calls_left: bool, locks: bool, stays: bool
) -> None:
    await one.execute(ADD, "mine")
    await one.execute(OWN, "mine")
    if locks:
        await one.execute("begin")
        await one.execute("select from dbos_async.workflows where id = 'mine1' for share")
    (answer,) = await execute(two, leases.LEAVE, ("mine", has_calls_left, b"d"))
    assert answer["workflows"] == (2 if locks else 3)
    assert await two.fetchval("select count(*) from dbos_async.executors where lease_until = '-infinity'") == stays
    assert await two.fetchval("select count(*) from dbos_async.executors") == stays


async def test_w3_a_start_that_is_repeated_begins_no_run_that_another_executor_has_taken_over(one: Any) -> None:
    row = ("mine", "f", "{}", "me", None, None, uuid4(), None, None, b"d")
    (answer,) = await execute(one, start.START_BY_ID, row)
    assert answer["started"]
    (answer,) = await execute(one, start.START_BY_ID, row)
    assert answer["started"], "its first answer was lost, and nobody else runs it"
    await one.execute("update dbos_async.workflows set owner = null where id = 'mine'")
    claimed = await execute(one, claiming.CLAIM, ("another", '["f"]', None, 1))
    assert [record["id"] for record in claimed] == ["mine"]
    (answer,) = await execute(one, start.START_BY_ID, row)
    assert not answer["started"]


async def test_w10_only_what_is_still_owned_by_the_same_run_is_given_back(one: Any, two: Any) -> None:
    await one.execute(OWN, "mine")
    found = {(row["id"], row["attempt"]) for row in await execute(one, leftovers.OWNED, ("mine", '["mine3"]'))}
    assert found == {("mine1", 1), ("mine2", 1)}
    await execute(two, control.CANCEL, ("mine1", None, b"d"))
    for workflow_id, attempt in sorted(found):
        await execute(one, leftovers.GIVE_BACK, (workflow_id, attempt, "mine", b"d"))
    assert await two.fetchval(OWNERS) == ["mine1 mine 0", "mine2 - 0", "mine3 mine 0"], "who ran what has ended stays"
    assert await two.fetchval("select status from dbos_async.workflows where id = 'mine1'") == "CANCELLED"
