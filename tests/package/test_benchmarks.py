"""The benchmarks still run: ours and the baseline, as little as there is, so that they are right when they are needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dbos_async._database.connection_kinds import SETTINGS
from tests.benchmarks import __main__ as command
from tests.benchmarks import growth, harness, plots, studies, targets, workloads
from tests.benchmarks.engines import Engine
from tests.benchmarks.harness import Plan
from tests.benchmarks.ours import Ours
from tests.benchmarks.report import as_json, ratios, reasons, table
from tests.benchmarks.targets import ratio

pytestmark = pytest.mark.newest_only  # whether the benchmarks run, not what they find


async def test_every_workload_of_ours_and_the_floor_gives_every_figure(database_url: str) -> None:
    plan = Plan(("ours", "baseline"), workloads.WORKLOADS, rounds=1, amount="tiny")
    told: list[str] = []
    outcome = await harness.play(plan, database_url, told.append)
    assert outcome.failed == {}
    assert set(outcome.figures["ours"]) == set(workloads.MEASURES)
    assert set(outcome.figures["baseline"]) == {"lone_send p50", "sends_queued"}
    assert outcome.skipped.keys() == {"baseline"}
    assert all(figure > 0 for figures in outcome.figures.values() for (figure,) in figures.values())
    assert len([what for what in told if what in plan.workloads]) == plan.steps
    assert table(plan, outcome).row_count == ratios(plan, outcome).row_count == len(workloads.MEASURES)
    assert json.loads(json.dumps(as_json(plan, outcome)))["times_as_good"]["baseline"].keys() == set(
        outcome.figures["baseline"]
    )


async def test_a_peer_that_fails_is_named_and_the_others_go_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    plan = Plan(("ours",), ("lone_send", "no such workload"), rounds=1, amount="none such")
    outcome = await harness.play(plan, database_url)
    assert set(outcome.failed["ours"]) == {"lone_send", "no such workload"}
    assert "none such" in outcome.failed["ours"]["lone_send"]
    assert outcome.figures == {}


async def test_a_peer_whose_server_is_not_there_is_skipped_with_the_reason(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    plan = Plan(("redis",), ("lone_send", "no_op"), rounds=1, amount="tiny")
    outcome = await harness.play(plan, database_url)
    assert outcome.failed == {}
    assert outcome.skipped["redis"].keys() == {"lone_send", "no_op"}
    assert all("redis" in reason for reason in reasons(plan, outcome))
    assert outcome.figures == {}


async def test_only_a_server_that_loses_nothing_is_measured(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    is_on = await connection.fetchval("show fsync") == "on"
    await connection.close()
    if is_on:
        assert (await harness.settings(database_url))["fsync"] == "on"
    else:
        with pytest.raises(AssertionError, match="fsync is off"):
            await harness.settings(database_url)


def test_a_payload_that_is_lost_doubled_or_changed_is_noticed() -> None:
    sent = workloads.payloads(3, 100)
    assert [len(payload) for payload in sent] == [100] * 3
    workloads.check(reversed(sent), 3, 100)
    for wrong in (sent[1:], [*sent, sent[0]], [sent[0], sent[0], sent[2]], [*sent[:2], sent[2] + "x"]):
        with pytest.raises(AssertionError):
            workloads.check(wrong, 3, 100)
    with pytest.raises(AssertionError):
        workloads.check(reversed(sent), 3, 100, in_order=True)


def test_less_of_milliseconds_is_better() -> None:
    outcome = harness.Outcome()
    outcome.add("ours", {"ping_pong p50": 1.0, "no_op": 10.0})
    outcome.add("dbos", {"ping_pong p50": 8.0, "no_op": 2.0})
    assert ratio(outcome, "ping_pong p50", "dbos") == 8.0
    assert ratio(outcome, "no_op", "dbos") == 5.0
    assert ratio(outcome, "no_op", "redis") is None


def test_what_was_aimed_at_is_met_or_missed() -> None:
    outcome = harness.Outcome()
    outcome.add("ours", {"no_op": 1000.0, "ping_pong p50": 1.0, "read_finished": 49_000.0})
    outcome.add("dbos", {"no_op": 25.0, "ping_pong p50": 7.9})
    found = {(aim.measure, aim.peer): is_met for aim, _, is_met in targets.judge(outcome)}
    assert found == {("no_op", "dbos"): True, ("ping_pong p50", "dbos"): False, ("read_finished", None): False}
    assert [is_met for *_, is_met in targets.judge_study({"KiB each": 6.1, "SEND p50 large / small": 1.4, "x": 9})] == [
        False,
        True,
    ]


def test_the_command_line_knows_its_peers(capsys: pytest.CaptureFixture[str]) -> None:
    given = command.parse(
        ["--peer", "dbos,redis", "--only", "events", "--bytes", "100", "1000", "--json", "found.json"]
    )
    assert given.peers == ["ours", "baseline", "dbos", "redis"]
    assert (given.workloads, given.bytes, given.json) == (["events"], [100, 1000], Path("found.json"))
    with pytest.raises(SystemExit):
        command.parse(["--peer", "nobody"])
    assert "nobody is none of dbos, dbos-tuned, redis, nats" in capsys.readouterr().err


def test_ours_is_measured_by_the_same_functions_as_other_engines() -> None:
    own: set[Any] = {name for name in vars(Ours) if name in workloads.WORKLOADS}
    assert issubclass(Ours, Engine)
    assert not own


@pytest.mark.direct("studies count connections and buffers of the server")
async def test_every_study_gives_its_figures(database_url: str) -> None:
    told: list[str] = []
    studied = await studies.play(tuple(studies.STUDIES), 1, "tiny", False, database_url, told.append)
    assert studied.failed == {}
    assert set(studied.figures) == set(studies.STUDIES)
    assert studied.figures["waiters"]["waiters"] == [20]
    assert studied.figures["growth"]["TAKE buffers, small"][0] > 0
    assert studied.figures["executors"]["send_recv by 2, /s"][0] > 0
    assert "KiB a running workflow" in studied.figures["memory"]
    assert studied.figures["wal"]["a message, sent alone and received, bytes"][0] > 2 * 100, "it is stored twice"
    assert studies.table(studied, 1).row_count == sum(map(len, studied.figures.values()))
    assert [what for what in told if what in studies.STUDIES] == list(studies.STUDIES)


async def test_growth_notices_that_a_statement_lost_its_index(database_url: str) -> None:
    connection = await asyncpg.connect(database_url, server_settings=SETTINGS)
    size = growth.LARGE["tiny"]
    await growth.fill(connection, size)
    before, scanned_before = await growth.buffers(connection, "TAKE", growth.rows(size, 1)["TAKE"])
    assert scanned_before == []
    await connection.execute("drop index dbos_async.messages_unreceived")
    after, scanned = await growth.buffers(connection, "TAKE", growth.rows(size, 1)["TAKE"])
    await connection.close()
    assert scanned == ["messages"]
    assert after > before + growth.MAX_MORE_BUFFERS


def test_a_picture_shows_every_peer(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    outcome = harness.Outcome()
    for peer in ("ours", "dbos"):
        outcome.add(peer, {"ping_pong p50": 1.0, "no_op": 10.0})
    plots.draw(tmp_path / "found.svg", {"runs": [as_json(Plan(("ours", "dbos"), workloads.WORKLOADS), outcome)]})
    assert "<svg" in (tmp_path / "found.svg").read_text()
