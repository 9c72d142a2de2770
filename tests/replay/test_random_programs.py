"""Random programs replay to what they were (W4), and the judge that says so finds replays that are broken on purpose."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from dbos_async._runs import patience
from tests.replay.deploys import with_changes
from tests.replay.judge import DIFFERENT, PARKED, SAME, STUCK, Verdict
from tests.replay.killing import killing
from tests.replay.kinds import ASKED, EXACT, KINDS, ORDERED
from tests.replay.lane import lane, side_by_side
from tests.replay.maker import Program, make, walk
from tests.replay.records import QUERIES, Ending, Records, contradictions, differences
from tests.replay.shrink import shrink
from tests.replay.tally import stories
from tests.replay.text import text_of

KINDS_IN_SUITE = tuple(EXACT | ORDERED)
"""The kinds that must replay exactly."""

PROGRAMS = 120


def programs(seed: str, count: int) -> list[Program]:
    return [make(KINDS_IN_SUITE[n % len(KINDS_IN_SUITE)], f"{seed}/{n}") for n in range(count)]


def check(verdicts: list[Verdict], count: int) -> None:
    assert len(verdicts) == count
    assert {verdict.outcome for verdict in verdicts} == {SAME}, stories(verdicts, 1)


async def test_w4_random_programs_replay_exactly(database_url: str) -> None:
    async with lane(database_url) as player:
        check([verdict async for verdict in side_by_side(player.play, programs("suite", PROGRAMS // 2))], PROGRAMS // 2)


async def test_w2_w3_w4_random_programs_that_crash_at_random_boundaries_end_and_replay_exactly(
    database_url: str,
) -> None:
    async with lane(database_url, most_crashes=4) as player:
        verdicts = [verdict async for verdict in side_by_side(player.play, programs("crashes", PROGRAMS // 2))]
    check(verdicts, PROGRAMS // 2)
    assert sum(verdict.crashes for verdict in verdicts) > PROGRAMS // 4


async def test_w4_w6_random_programs_that_are_asked_to_end_and_crash_replay_exactly(database_url: str) -> None:
    kinds = tuple(ASKED)
    asked = [make(kinds[n % len(kinds)], f"asked/{n}") for n in range(PROGRAMS // 2)]
    async with lane(database_url, most_crashes=2) as player:
        check([verdict async for verdict in side_by_side(player.play, asked)], PROGRAMS // 2)


async def test_w4_random_programs_whose_code_changes_in_mid_run_end_and_replay_exactly(database_url: str) -> None:
    changing = [with_changes(program) for program in programs("deploys", PROGRAMS // 2)]
    async with lane(database_url, most_crashes=5) as player:
        verdicts = [verdict async for verdict in side_by_side(player.play, changing)]
    check(verdicts, PROGRAMS // 2)
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        of_programs = "from dbos_async.workflows where name = 'random program'"
        went = await pool.fetchval(f"select count(patches) {of_programs}")
        assert 0 < went < await pool.fetchval(f"select count(*) {of_programs}"), (
            "some went the new way, and some did not"
        )


@pytest.mark.chaos
async def test_w2_w3_w4_random_programs_whose_processes_are_killed_end_and_replay_exactly(database_url: str) -> None:
    async with killing(database_url, "suite", 60.0, []) as player:
        check([verdict async for verdict in side_by_side(player.play, programs("kills", PROGRAMS))], PROGRAMS)
        assert player.surprises == []
        assert player.deaths > 2


# The judge finds what is wrong. Each of these spoils the records of a sequential program between its end and its replay.

SWAP = """
    with two as (
        select number, output, lead(output) over (order by number) as next, lag(output) over (order by number) as before
        from dbos_async.steps where workflow_id = $1 and key = 'work' order by number limit 2)
    update dbos_async.steps as s set output = coalesce(two.next, two.before) from two
    where s.workflow_id = $1 and s.branch = '' and s.number = two.number
"""
FORGET_SEND = """
    delete from dbos_async.steps where workflow_id = $1 and (branch, number) = (
        select branch, number from dbos_async.steps where workflow_id = $1 and verb = 'send' order by number limit 1)
"""
FORGET_RECEIVE = FORGET_SEND.replace("verb = 'send'", "verb = 'recv' and key <> 'never'")
FORGET_END = """
    delete from dbos_async.steps where workflow_id = $1 and number >= (
        select number from dbos_async.steps where workflow_id = $1 and verb = 'recv' and key <> 'never' limit 1)
"""
OTHER_VERB = "update dbos_async.steps set verb = 'recv_envelope' where workflow_id = $1 and verb = 'recv'"


def spoiled(*commands: str) -> Callable[[Any, str], Awaitable[object]]:
    async def tamper(pool: Any, workflow_id: str) -> None:
        for command in commands:
            await pool.execute(command, workflow_id)

    return tamper


PLAIN = [{"do": "step", "how": "plain", "tag": f"p{n}"} for n in range(2)]
MAIL = {"do": "mail", "how": "recv", "tag": "m"}
EVENT = {"do": "set", "key": "a", "tag": "e"}
SEQUENCE: Program = {"kind": "sequence", "seed": "by hand", "body": [*PLAIN, MAIL, EVENT], "script": [], "asks": False}


@pytest.mark.parametrize(
    ("spoil", "outcome", "reason"),
    [
        pytest.param((), SAME, "", id="nothing"),
        pytest.param((SWAP,), DIFFERENT, "got the outcome of", id="two outcomes swapped"),
        pytest.param((FORGET_SEND,), PARKED, "cancelled before it had a result", id="a send forgotten"),
        pytest.param((OTHER_VERB,), PARKED, "recv_envelope", id="another verb recorded"),
        pytest.param((FORGET_RECEIVE,), PARKED, "cancelled before it had a result", id="a receive forgotten"),
        pytest.param((FORGET_END,), STUCK, "waiting in recv m", id="all from a receive on forgotten"),
    ],
)
async def test_a_broken_replay_is_found(
    spoil: tuple[str, ...], outcome: str, reason: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LOOK_EVERY_SECONDS", 0.05)
    async with lane(database_url, patience_seconds=2.0) as player:
        player.tamper = spoiled(*spoil)
        verdict = await player.play(SEQUENCE)
    assert (verdict.outcome, reason in "\n".join(verdict.reasons)) == (outcome, True), verdict.reasons


def test_what_the_execution_that_ended_had_not_said_is_found() -> None:
    """A body that ran with other arguments belongs to another execution, and so does a value that was stored with others."""
    result = {"log": ["p0", "e set"], "asked": {"p0": ["p0", 0, ""], "e": ["e", 1, "p0"]}, "done": ["e"]}
    rows = {name: list[list[Any]]() for name in QUERIES}
    rows["events"] = [["a", '["e", 1, "p0"]', "2"]]
    records = Records(Ending("SUCCESS", json.dumps(result), None), rows)
    assert contradictions(records, [["p0", 0, ""]]) == []
    assert contradictions(records, [["p0", 0, ""], ["p0", 3, "what nobody said"]]) == [
        "ran with ['p0', 3, 'what nobody said'], and the execution that ended said ['p0', 0, '']"
    ]
    rows["events"][0][1] = '["e", 2, "p0"]'
    assert contradictions(records, []) == [
        "stored with ['e', 2, 'p0'], and the execution that ended said ['e', 1, 'p0']"
    ]
    rows["events"] *= 2
    assert "stored 2 times: e" in contradictions(records, [])


def test_what_a_cancelled_receive_gives_back_only_in_the_replay_is_no_difference() -> None:
    """The workflow ended before it was given back (decision 16)."""

    def records(log: str, *messages: str) -> Records:
        rows = {name: list[list[Any]]() for name in QUERIES}
        rows["steps"] = [["", number, "recv", "t", message, None, message] for number, message in enumerate(messages)]
        rows["messages received"] = [["t", message, message] for message in messages]
        return Records(Ending("SUCCESS", json.dumps({"log": [log], "asked": {}}), None), rows)

    assert differences(records("a", "1", "2"), records("a", "1")) == []
    assert len(differences(records("a", "1", "2"), records("b", "1"))) == 3
    assert len(differences(records("a", "1"), records("a", "1", "2"))) == 2


# The generator.


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_kind_and_seed_make_the_same_program(kind: str) -> None:
    made = [make(kind, seed) for seed in range(30)]
    assert made == [make(kind, seed) for seed in range(30)]
    assert made == json.loads(json.dumps(made))
    assert len({text_of(program) for program in made}) == 30
    for program in made:
        tags = [node["tag"] for node in walk(program["body"])]
        assert len(tags) == len(set(tags)), "each act has a tag of its own"


def size(program: Program) -> int:
    return sum(1 for _ in walk(program["body"]))


async def test_a_program_is_shrunk_to_what_makes_it_differ() -> None:
    async def play(program: Program) -> Verdict:
        acts = {node.get("how") for node in walk(program["body"]) if node["do"] == "step"}
        return Verdict(program, DIFFERENT if {"thread", "flaky"} <= acts else SAME, [], 0, 0.0)

    verdicts = [verdict for seed in range(5, 14) if (verdict := await play(make("mixed", seed))).outcome == DIFFERENT]
    assert len(verdicts) > 3
    for verdict in verdicts:
        smallest = await shrink(verdict, play, 10.0)
        assert smallest.outcome == DIFFERENT
        # The acts that a block cannot do without are left.
        assert size(smallest.program) < min(20, size(verdict.program) / 2)
