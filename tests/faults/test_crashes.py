"""Processes that are killed at every step boundary, and the runs that take over (M1, M2, M5, E2, E4, S2, S6, W2 to W4)."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.crashing import killed_and_taken_over, run

EXPECTED_EVERYTHING = {
    "a": "A", "first": 1, "timeout": None, "second": 2, "event": "A", "error": ["on purpose"], "b": "B",
    "child": ["one", "two", "three"], "stream": ["one", "two", "three"],
}  # fmt: skip


def check_everything(story: dict[str, Any]) -> None:
    assert story["result"] == EXPECTED_EVERYTHING
    assert story["events"] == {"e": "newer"}
    assert story["streams"]["s"] == [1, 2]
    verbs = [step[2] for step in story["steps"] if step[0] == "w" and step[2] != "read_stream"]
    assert Counter(verbs) == Counter(
        step=3, set_event=2, write_stream=2, start_workflow=1, send=2, send_bulk=1, recv=2, recv_envelope=1,
        get_event=1, sleep=1, get_result=1, close_stream=1,
    )  # fmt: skip
    child = [step[2] for step in story["steps"] if step[0] == "child"]
    assert Counter(child) == Counter(recv=4, write_stream=3)


AGAIN = """
    update dbos_async.workflows set status = 'PENDING', owner = null, output = null, error = null, ended_at = null where id = 'w'
"""


@pytest.mark.parametrize("at", range(1, 14, 5))
@pytest.mark.parametrize("mode", ["before", "during", "after"])
async def test_w2_w4_tasks_that_share_a_log_are_killed_twice_and_leave_one_execution(
    database_url: str, connection: Any, tmp_path: Path, mode: str, at: int
) -> None:
    file = tmp_path / "ran"
    # The steps that are replayed do not count.
    for crash in ((mode, str(at)), ("after", "3")):
        code, _ = await run(database_url, "shared_log", file, *crash)
        assert code == -signal.SIGKILL
    _, story = await run(database_url, "shared_log", file)
    assert story is not None
    ran = [json.loads(line) for line in file.read_text().splitlines()]
    assert [told for told in ran if told != story["result"]["said"][told[0]]] == []
    await connection.execute(AGAIN)
    assert await run(database_url, "shared_log", file) == (0, story)
    assert len(file.read_text().splitlines()) == len(ran)


BOUNDARIES = range(1, 27)


@pytest.mark.parametrize("at", BOUNDARIES)
@pytest.mark.parametrize("mode", ["before", "after"])
async def test_m2_m5_e2_e4_s2_s6_w2_a_workflow_killed_at_any_step_ends_as_if_it_had_not_been(
    database_url: str, tmp_path: Path, mode: str, at: int
) -> None:
    check_everything(await killed_and_taken_over(database_url, "everything", tmp_path / "ran", mode, at))


@pytest.mark.parametrize("at", range(1, 27, 2))
async def test_m1_m2_w3_a_workflow_killed_while_a_statement_is_under_way(
    database_url: str, tmp_path: Path, at: int
) -> None:
    check_everything(await killed_and_taken_over(database_url, "everything", tmp_path / "ran", "during", at))


@pytest.mark.parametrize("at", range(1, 20, 2))
@pytest.mark.parametrize("mode", ["before", "after"])
async def test_w4_gather_and_task_groups_replay_exactly(database_url: str, tmp_path: Path, mode: str, at: int) -> None:
    story = await killed_and_taken_over(database_url, "side_by_side", tmp_path / "ran", mode, at)
    assert story["result"] == {
        "gathered": [["G0", "G1", "G2", "GX", "GY"], ["H0", "H1", "H2", "HX", "HY"]],
        "received": [1, 2],
        "group": ["T0", "T1", "T2"],
    }
    assert (story["streams"]["g"], story["streams"]["h"]) == (["G2"], ["H2"])
    assert [step[1] for step in story["steps"]] == [
        "0.1.1", "0.1.2", "0.1.3", "0.1.4", "0.1.5", "0.1.6", "0.1.6.1.1", "0.1.6.2.1",
        "0.2.1", "0.2.2", "0.2.3", "0.2.4", "0.2.5", "0.2.6", "0.2.6.1.1", "0.2.6.2.1",
        "0.3.1", "0.4.1", "0.5.1",
    ]  # fmt: skip


@pytest.mark.parametrize("at", range(1, 17))
@pytest.mark.parametrize("mode", ["before", "during", "after"])
async def test_c1_whoever_waits_for_the_first_of_several_is_killed_at_any_step(
    database_url: str, tmp_path: Path, mode: str, at: int
) -> None:
    story = await killed_and_taken_over(database_url, "first_of_several", tmp_path / "ran", mode, at)
    messages = story["result"].pop("messages")
    assert sorted(messages) == [1, 2]
    assert story["result"] == {
        "cancelled": "endless", "quick": "QUICK", "word": "one", "child": ["one"], "nothing": None, "event": 7,
    }  # fmt: skip
    assert Counter(step[2] for step in story["steps"] if step[0] == "w") == Counter(
        start_workflow=1, step=2, wait_first=7, send=2, get_result=1, set_event=1
    )
