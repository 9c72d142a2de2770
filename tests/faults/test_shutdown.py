"""However a program ends: its running steps finish, its workflows are given back, and nothing is left behind."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from dbos_async import DBOS, SetWorkflowID
from dbos_async._executor import launched
from tests.support.eventually import eventually
from tests.support.processes import Program, running
from tests.support.programs.ending import PLACES
from tests.support.programs.executor import member

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and sockets are others there")

KNOWN_HERE = member  # importing it registers the workflow that the other process runs

ENDS: dict[str, tuple[str, int | None, int, str]] = {
    # how it ends: what the program does, the signal that it gets, its exit code, and the last line that it writes
    "leave": ("leave", None, 0, ""),
    "error": ("error", None, 1, "ValueError: on purpose"),
    "exit": ("exit", None, 3, ""),
    "cancel": ("cancel", None, 1, "asyncio.exceptions.CancelledError"),
    "timeout": ("timeout", None, 1, "TimeoutError"),
    "Ctrl-C": ("signal", signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"),
    "SIGTERM": ("signal", signal.SIGTERM, 128 + signal.SIGTERM, ""),
    "own handler": ("own handler", signal.SIGTERM, 0, ""),
}

STRICT = ("-W", "error"), "0"
DEVELOPER = ("-X", "dev"), "1"


def left_over(stderr: str) -> list[str]:
    """The lines of standard error, without those by which developer mode reports a slow machine."""
    return [line for line in stderr.splitlines() if not line.startswith("Executing <")]


async def ends(program: Program, how: str) -> None:
    """Let it end that way, and check its exit code and its last line."""
    _, number, code, last_line = ENDS[how]
    assert await (program.code() if number is None else program.end(number)) == code, program.errors
    lines = left_over(program.errors)
    assert (lines or [""])[-1] == last_line, program.errors
    for phrase in ("was destroyed", "never retrieved", "never awaited", "Exception ignored", "Warning"):
        assert phrase not in program.errors, program.errors
    assert not lines or (last_line and lines[0].startswith("Traceback")), program.errors


@pytest.mark.direct("it counts connections in pg_stat_activity")
@pytest.mark.parametrize("python", [STRICT, DEVELOPER], ids=["strict", "developer"])
@pytest.mark.parametrize("how", ENDS)
async def test_w5_whatever_ends_it_a_program_gives_its_workflows_back_and_leaves_nothing(
    database_url: str, connection: Any, how: str, python: tuple[tuple[str, ...], str]
) -> None:
    options, debug = python
    async with running("ending", database_url, ENDS[how][0], options=options, PYTHONASYNCIODEBUG=debug) as program:
        await program.says("ready")
        await ends(program, how)
    left = await connection.fetch("select status, owner, recoveries from dbos_async.workflows")
    assert [tuple(row) for row in left] == [("PENDING", None, 0)] * (len(PLACES) + 1)
    assert await connection.fetchval("select count(*) from dbos_async.executors") == 0
    mine = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    await eventually(lambda: _is(connection, mine, 0), "the server has closed its side of every connection")


@pytest.mark.newest_only  # the embedded Postgres has a version of its own
@pytest.mark.parametrize("ways", [list(ENDS)[::2], list(ENDS)[1::2]], ids=", ".join)
async def test_whatever_ends_it_a_program_stops_its_embedded_server(postgres: None, ways: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="dbos-shutdown-") as folder:
        for how in ways:
            async with running("ending", "", ENDS[how][0], folder=Path(folder), DBOS_DATABASE_URL="") as program:
                await program.says("ready")
                assert servers(folder), how
                await ends(program, how)
            assert not servers(folder), how


def servers(folder: str) -> list[psutil.Process]:
    """The processes that serve data in this folder."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "postgres" and any(folder in word for word in process.info["cmdline"] or ())
    ]


async def test_a_second_signal_ends_the_process_at_once(database_url: str, connection: Any) -> None:
    async with running("ending", database_url, "signal", 3600) as program:
        await program.says("ready")
        program.process.send_signal(signal.SIGTERM)
        await no_more_steps(connection)
        assert program.process.returncode is None, "it drains for as long as drain_seconds allows"
        assert await connection.fetchval("select count(*) from dbos_async.executors") == 1
        assert await program.end() == -signal.SIGTERM


async def no_more_steps(connection: Any) -> None:
    """Wait until no step has been recorded for longer than a short one takes."""
    recent = "select count(*) from dbos_async.steps where completed_at between $1 and now()"
    # The longest of the steps that go on and on takes half a second.
    ago = "select clock_timestamp() - interval '1 second'"

    async def quiet() -> bool:
        return bool(await connection.fetchval(recent, await connection.fetchval(ago)) == 0)

    await eventually(quiet, "no new steps begin")


RAN: list[str] = []
MAY_END: asyncio.Event


@pytest.fixture(autouse=True)
def _fresh() -> None:
    fresh()


def fresh() -> None:
    """Nothing ran yet, and the steps that begin from now on wait for a word of their own."""
    global MAY_END
    RAN.clear()
    MAY_END = asyncio.Event()  # an event belongs to the loop that first waited for it


@DBOS.step(name="drained")
async def drained(name: str) -> str:
    RAN.append(name)
    try:
        await MAY_END.wait()
    except asyncio.CancelledError:
        RAN.append(f"{name} was cancelled")
        raise
    return name


@DBOS.step(name="drained thread")
def drained_thread(name: str) -> str:
    RAN.append(name)
    time.sleep(0.3)
    return name


@DBOS.step(name="short")
async def short(n: int) -> int:
    RAN.append(f"short {n}")
    await asyncio.sleep(0.005)
    return n + 1


@DBOS.workflow(name="one step after the other")
async def one_after_the_other() -> list[str]:
    return [await drained("a"), await drained("b")]


@DBOS.workflow(name="one last step")
async def one_last_step() -> str:
    return await drained("last")


@DBOS.workflow(name="three at a time")
async def three_at_a_time() -> list[Any]:
    return [*await asyncio.gather(drained("a"), drained_thread("thread"), DBOS.recv("go", None), drained("c"))]


@DBOS.workflow(name="many short steps")
async def many_short_steps() -> int:
    n = 0
    while await DBOS.get_event("w", "enough", 0) is None and n < 100_000:
        n = await short(n)
    return n


async def test_a_step_that_runs_at_shutdown_is_finished_and_recorded(database_url: str, connection: Any) -> None:
    async with DBOS(database_url, drain_seconds=30):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(one_after_the_other)
        await eventually(lambda: RAN == ["a"])
        asyncio.get_running_loop().call_later(0.3, MAY_END.set)
    assert RAN == ["a"], "and no other one began"
    recorded = await connection.fetch("select key, output::text from dbos_async.steps")
    assert [tuple(row) for row in recorded] == [("drained", '"a"')]
    async with DBOS(database_url):
        assert await (await DBOS.retrieve_workflow("w")).get_result() == ["a", "b"]
    assert RAN == ["a", "b"], "what was recorded did not run again"


async def test_the_ends_that_are_being_stored_at_shutdown_are_waited_for(database_url: str, connection: Any) -> None:
    async def start(ids: list[str]) -> asyncio.Event:
        fresh()
        for workflow_id in ids:
            with SetWorkflowID(workflow_id):
                await DBOS.start_workflow(one_last_step)
        await eventually(lambda: len(RAN) == len(ids))
        return MAY_END

    async def end_one_after_the_other() -> None:
        # All of them end while the shutdown goes on, and the late ones are to be stored behind the early ones.
        executor = launched.executor()
        await eventually(lambda: executor.closing)
        early_may_end.set()
        waits = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
        await eventually(lambda: _is(connection, waits, True))
        late_may_end.set()
        await eventually(lambda: all(run.over for run in executor.runs.values()))
        await connection.execute("commit")

    async with DBOS(database_url, drain_seconds=30):
        early_may_end = await start([f"early {n}" for n in range(20)])
        late_may_end = await start([f"late {n}" for n in range(20)])
        await connection.execute("begin; select from dbos_async.workflows where id like 'early%' for update")
        ending = asyncio.create_task(end_one_after_the_other())
    await ending
    ends = await connection.fetch("select status, output::text from dbos_async.workflows")
    assert [tuple(end) for end in ends] == [("SUCCESS", '"last"')] * 40


async def test_steps_side_by_side_are_all_finished(database_url: str, connection: Any) -> None:
    async with DBOS(database_url, drain_seconds=30):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(three_at_a_time)
        await eventually(lambda: len(RAN) == 3)
        asyncio.get_running_loop().call_later(0.1, MAY_END.set)
    done = "select count(*) from dbos_async.steps where verb = 'step' and completed_at is not null"
    assert await connection.fetchval(done) == 3
    async with DBOS(database_url):
        await DBOS.send("w", "go", "go")
        assert await (await DBOS.retrieve_workflow("w")).get_result() == ["a", "thread", "go", "c"]
    assert sorted(RAN) == ["a", "c", "thread"]


async def test_a_step_that_takes_longer_is_cancelled_and_runs_again(database_url: str, connection: Any) -> None:
    async with DBOS(database_url, drain_seconds=0.2):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(one_after_the_other)
        await eventually(lambda: RAN == ["a"])
    assert RAN == ["a", "a was cancelled"]
    assert await connection.fetchval("select count(*) from dbos_async.steps") == 0
    MAY_END.set()
    async with DBOS(database_url):
        assert await (await DBOS.retrieve_workflow("w")).get_result() == ["a", "b"]
    assert RAN == ["a", "a was cancelled", "a", "b"]
    assert await connection.fetchval("select recoveries from dbos_async.workflows") == 0


async def test_no_new_step_begins_while_draining(database_url: str, connection: Any) -> None:
    async with DBOS(database_url, drain_seconds=30):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(many_short_steps)
        with SetWorkflowID("slow"):
            await DBOS.start_workflow(one_after_the_other)
        await eventually(lambda: len(RAN) > 20)
        began: list[int] = []

        def let_end() -> None:
            began.append(len(RAN))
            MAY_END.set()

        # The slow step keeps the drain going for longer than many a short one takes.
        asyncio.get_running_loop().call_later(0.1, RAN.append, "draining")
        asyncio.get_running_loop().call_later(0.4, let_end)
    assert began == [len(RAN)]
    assert RAN[-1] == "draining"
    shorts = [name for name in RAN if name.startswith("short")]
    recorded = await connection.fetchval("select count(*) from dbos_async.steps where key = 'short'")
    assert recorded == len(shorts) == len(set(shorts)), "the one that was under way is recorded, too"


async def test_what_is_given_back_goes_on_at_once_in_another_executor(database_url: str, connection: Any) -> None:
    async with running("executor", database_url, "other", 0) as other:
        await other.says("ready")
        async with DBOS(database_url, executor_id="leaving", drain_seconds=5):
            for kind in ("waiting", "sleeping", "stepping"):
                for n in range(10):
                    with SetWorkflowID(f"leaving {kind} {n}"):
                        await DBOS.start_workflow(member, kind)
        left_at = await connection.fetchval("select clock_timestamp()")
        theirs = (
            "select count(*) from dbos_async.workflows "
            "where starts_with(owner, 'other:') and attempt % 1000000 = 2 and recoveries = 0"
        )
        await eventually(lambda: _is(connection, theirs, 30))
        last = await connection.fetchval("select max(claimed_at) from dbos_async.workflows")
        assert (last - left_at).total_seconds() < 5, "nobody waited for a lease"
        assert await other.end() == 128 + signal.SIGTERM


async def _is(connection: Any, query: str, count: int) -> bool:
    return bool(await connection.fetchval(query) == count)
