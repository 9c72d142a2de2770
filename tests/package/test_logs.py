"""What is logged: no text that was sent, named or raised begins a line or sends escapes, and what ends in ERROR is told (D5)."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dbos_async import DBOS, DBOSError, InvalidValueError, SetWorkflowID, SetWorkflowTimeout, Topic
from dbos_async._logs import MAX_SHOWN, Lines, shown
from tests.support.eventually import eventually

EVIL = "x\nCRITICAL:root:all is lost \x1b[2J\r\x0b\x85\u2028CRITICAL:root:\u202e\x9b31m\x07\x7f"
"""Ends of lines of every kind, escapes of terminals, and a change of the direction of writing."""

log = logging.getLogger("dbos_async")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a program's own handler writes, as logging.basicConfig makes it."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        logging.Formatter(
            logging.BASIC_FORMAT + " (%(threadName)s %(taskName)s)"
            if sys.version_info >= (3, 12)
            else logging.BASIC_FORMAT
        )
    )
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.DEBUG)
    yield out
    log.removeHandler(handler)
    log.setLevel(before)


def _check(text: str) -> list[str]:
    """Every line of the log begins as one of ours or is indented, and none has more than printable characters."""
    lines = text.split("\n")[:-1]
    assert lines
    for line in lines:
        assert line.isprintable(), line
        assert line.startswith(
            ("DEBUG:dbos_async:", "INFO:dbos_async:", "WARNING:dbos_async:", "ERROR:dbos_async:", "    ")
        ), line
    return lines


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError(EVIL)


class Unreadable:
    def __repr__(self) -> str:
        raise RuntimeError(EVIL)


class OddError(Exception):
    @property
    def __notes__(self) -> Any:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]  # what is tested
        raise RuntimeError(EVIL)


def _raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_d5_arguments_of_every_kind_are_one_line_each(written: io.StringIO) -> None:
    for argument in (
        EVIL,
        ValueError(EVIL),
        [EVIL],
        {EVIL: EVIL},
        EVIL.encode(),
        InvalidValueError(EVIL, EVIL),
        "\ud800",
        Unreadable(),
        UnreadableError(),
    ):
        log.warning("one %s", argument)
        log.warning("one %r and %.20s", argument, argument)
        log.warning("one %(name)s", {"name": argument})
        log.warning(argument)
    lines = _check(written.getvalue())
    assert len(lines) == 9 * 4


def test_d5_numbers_and_plain_texts_are_logged_as_ever(written: io.StringIO) -> None:
    log.info("%d of %g s, %.1f, %s, %r, %r, %s", 3, 0.25, 1.25, "a b", "it's", None, "Ärger 漢字 🎉")
    assert written.getvalue().startswith('INFO:dbos_async:3 of 0.25 s, 1.2, a b, "it\'s", None, Ärger 漢字 🎉')


def test_d5_a_long_text_is_cut(written: io.StringIO) -> None:
    log.warning("%s and %r", "x" * 8_000_000, "y" * 8_000_000)
    log.warning("failed", exc_info=ValueError("z" * 8_000_000))
    log.warning("failed", exc_info=ValueError("z\n" * 4_000_000))
    _check(written.getvalue())
    assert len(written.getvalue()) < 100_000


@pytest.mark.parametrize(
    "error",
    [
        ValueError(EVIL),
        KeyError(EVIL),
        ExceptionGroup(EVIL, [ValueError(EVIL), ExceptionGroup(EVIL, [KeyError(EVIL)])]),
        SyntaxError(EVIL, (EVIL, 1, 1, EVIL)),
        type(EVIL.replace("\0", ""), (Exception,), {"__module__": EVIL})(EVIL),
        UnreadableError(),
        OddError(),
        OSError(2, EVIL, EVIL),
    ],
    ids=lambda error: type(error).__name__[:1],
)
def test_d5_tracebacks_are_indented(error: Exception, written: io.StringIO) -> None:
    if not isinstance(error, OddError):
        error.add_note(EVIL)
    error.__cause__ = _raised(RuntimeError(EVIL))
    error.__context__ = _raised(LookupError(EVIL))
    log.error("failed", exc_info=_raised(error))
    lines = _check(written.getvalue())
    assert isinstance(error, OddError) or any("Traceback (most recent call last)" in line for line in lines)
    assert sum(not line.startswith("    ") for line in lines) == 1


def test_d5_a_stack_is_indented(written: io.StringIO) -> None:
    log.warning("The loop is blocked by %r:%s", EVIL, Lines(f'  File "x.py"\n{EVIL}\n'))
    log.warning("here", stack_info=True)
    lines = _check(written.getvalue())
    assert '      File "x.py"' in lines
    assert any("test_d5_a_stack_is_indented" in line for line in lines)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Records have the names of tasks since Python 3.12.")
async def test_d5_the_name_of_a_task_of_the_user_is_one_line(written: io.StringIO) -> None:
    async def logs() -> None:
        log.warning("from a task")

    await asyncio.create_task(logs(), name=EVIL)
    assert len(_check(written.getvalue())) == 1


def test_d5_what_is_shown_of_a_text_is_its_own_if_it_is_plain() -> None:
    plain = "order-17 Ärger"
    assert shown(plain) is plain
    assert shown("a\tb\u200d\ue000\U000e0001\ud800") == "a\\tb\\u200d\\ue000\\U000e0001\\ud800"
    assert len(shown("x" * 10_000)) == MAX_SHOWN + 1


@DBOS.step(name=EVIL, retries_allowed=True, interval_seconds=0.01)
async def evil_step() -> None:
    raise ValueError(EVIL)


@DBOS.workflow(name=EVIL)
async def evil_workflow(act: str) -> Any:
    if act == "raise":
        await evil_step()
    if act == "swallow":
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                await asyncio.sleep(1)
            except BaseException:
                if DBOS.workflow_id is None:
                    raise
                until -= 20 if _enough.is_set() else 0
    if act == "wrong":
        return object()
    return await DBOS.recv(Topic(EVIL, int), None)


_enough = asyncio.Event()


async def test_d5_no_log_line_is_forged_by_ids_names_keys_and_errors(database_url: str, written: io.StringIO) -> None:
    async with DBOS(database_url, drain_seconds=0.1):
        for act in ("raise", "wrong", "receive"):
            with SetWorkflowID(f"{act} {EVIL}"):
                handle = await DBOS.start_workflow(evil_workflow, act)
            if act == "receive":
                await DBOS.send(handle.workflow_id, EVIL, EVIL)
            with pytest.raises((ValueError, DBOSError)) as raised:
                await handle.get_result()
            assert act == "raise" or str(raised.value).isprintable()
        with SetWorkflowID(f"cancelled {EVIL}"):
            handle = await DBOS.start_workflow(evil_workflow, "receive")
        await DBOS.cancel_workflow(handle.workflow_id)
        with SetWorkflowID(f"late {EVIL}"), SetWorkflowTimeout(0.1):
            await DBOS.start_workflow(evil_workflow, "receive")
        await eventually(lambda: "deadline" in written.getvalue())
        with SetWorkflowID(f"stubborn {EVIL}"):
            await DBOS.start_workflow(evil_workflow, "swallow")
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert any(name.startswith("workflow stubborn") for name in names)
        assert all(name.isprintable() for name in names)
    _enough.set()
    text = written.getvalue()
    _check(text)
    for said in (
        "is tried again",
        "ends in ERROR",
        "stops: it was cancelled",
        "its deadline",
        "swallows its cancellation",
    ):
        assert said in text, said


@DBOS.workflow()
async def fails_after(child: bool) -> None:
    if child:
        try:
            await fails_after(False)
        except LookupError as error:
            raise RuntimeError("of a parent") from error
    await fails_in_step()


@DBOS.step()
async def fails_in_step() -> None:
    raise LookupError("no such thing")


async def test_d5_whatever_ends_in_error_is_logged_once_with_its_traceback(
    database_url: str, written: io.StringIO
) -> None:
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(fails_after, True)
        for _ in range(2):
            with pytest.raises(RuntimeError):
                await handle.get_result()
        with SetWorkflowID("w"):
            again = await DBOS.start_workflow(fails_after, True)
        with pytest.raises(RuntimeError):
            await again.get_result()
    lines = _check(written.getvalue())
    told = [line for line in lines if "ends in ERROR" in line]
    assert len(told) == 2
    assert told[1].startswith("WARNING:dbos_async:Workflow 'w' ends in ERROR.")
    assert "    LookupError: no such thing" in lines
    assert "    RuntimeError: of a parent" in lines
    assert any("in fails_after" in line for line in lines)


@DBOS.workflow()
async def succeeds_or_waits(act: str) -> None:
    if act == "wait":
        await DBOS.recv(None, None)


async def test_d5_what_succeeds_is_cancelled_or_goes_on_elsewhere_is_not_said_to_fail(
    database_url: str, written: io.StringIO
) -> None:
    async with DBOS(database_url):
        await succeeds_or_waits("")
        handle = await DBOS.start_workflow(succeeds_or_waits, "wait")
        await DBOS.cancel_workflow(handle.workflow_id)
        await DBOS.start_workflow(succeeds_or_waits, "wait")
        log.info("the end")
    assert "ERROR" not in written.getvalue()
