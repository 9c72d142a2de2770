"""Logs in the user's own format: which workflow a record is of, and nothing twice."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from dbos_async import DBOS, InvalidArgumentError, SetWorkflowID
from dbos_async.logs import WorkflowContext
from tests.support.eventually import eventually

log = logging.getLogger("shop")


class Collected(logging.Handler):
    """The records that a handler is given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        """The messages."""
        return [record.getMessage() for record in self.records]

    def places(self) -> list[tuple[Any, ...]]:
        """Each message with what was added to it."""
        return [
            (one.getMessage(), one.workflow_id, one.workflow_name, one.step, one.attempt, one.replaying)
            for one in self.records
        ]


@pytest.fixture
def collected() -> Iterator[Collected]:
    """The handler of a program with the filter, which sees every record of the process."""
    handler, root = Collected(), logging.getLogger()
    handler.addFilter(WorkflowContext())
    root.addHandler(handler)
    before = root.level
    root.setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


@DBOS.step(name="logged charges")
async def charge() -> None:
    log.info("charging")


@DBOS.step(name="logged prints")
def print_it() -> None:
    log.info("printing")


async def test_a_record_says_where_it_comes_from(dbos: DBOS, collected: Collected) -> None:
    async def in_task() -> None:
        log.info("in a task")
        await charge()

    @DBOS.workflow(name="logged order")
    async def order() -> None:
        log.info("begins")
        await charge()
        await print_it()
        await asyncio.create_task(in_task())
        await asyncio.to_thread(log.info, "in a thread")

    log.info("outside")
    with SetWorkflowID("order-17"):
        await order()
    places = [
        place for place, record in zip(collected.places(), collected.records, strict=True) if record.name == "shop"
    ]
    assert places == [
        ("outside", "", "", "", 0, False),
        ("begins", "order-17", "logged order", "", 1, False),
        ("charging", "order-17", "logged order", "1", 1, False),
        ("printing", "order-17", "logged order", "2", 1, False),
        ("in a task", "order-17", "logged order", "", 1, False),
        ("charging", "order-17", "logged order", "2.1.1", 1, False),
        ("in a thread", "order-17", "logged order", "", 1, False),
    ]


@DBOS.workflow(name="logged waits")
async def waits() -> bool:
    log.info("begins, %s", DBOS.is_replaying)
    await charge()
    log.info("charged, %s", DBOS.is_replaying)
    await DBOS.recv("go", timeout_seconds=None)
    log.info("goes on, %s", DBOS.is_replaying)
    await charge()
    return DBOS.is_replaying


async def _run_twice() -> None:
    with SetWorkflowID("waits"):
        handle = await DBOS.start_workflow(waits)
    await eventually(lambda: _has_steps("waits", 2))
    await DBOS.cancel_workflow("waits")
    await DBOS.resume_workflow("waits")
    await DBOS.send("waits", None, "go")
    assert await handle.get_result() is False


async def _has_steps(workflow_id: str, count: int) -> bool:
    """The last of them is a wait."""
    return len(await DBOS.list_workflow_steps(workflow_id)) == count


async def test_what_an_earlier_run_has_logged_is_dropped(dbos: DBOS, collected: Collected) -> None:
    await _run_twice()
    ours = [text for text, record in zip(collected.texts, collected.records, strict=True) if record.name == "shop"]
    assert ours == ["begins, False", "charging", "charged, False", "goes on, False", "charging"]
    assert DBOS.is_replaying is False


async def test_everything_is_logged_if_nothing_shall_be_dropped(dbos: DBOS) -> None:
    handler = Collected()
    handler.addFilter(WorkflowContext(drop_replays=False))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        await _run_twice()
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    assert handler.texts[2:5] == ["charged, False", "begins, True", "charged, True"]
    assert [record.replaying for record in handler.records] == [False, False, False, True, True, False, False]
    assert handler.records[0].attempt == 1 < handler.records[3].attempt


async def test_what_dbos_async_logs_itself_is_never_dropped(dbos: DBOS, collected: Collected) -> None:
    asked: list[int] = []

    @DBOS.workflow(name="logged changes")
    async def changes() -> None:
        asked.append(1)
        await (charge() if len(asked) == 1 else print_it())
        await DBOS.recv("go", timeout_seconds=None)

    with SetWorkflowID("changed"):
        await DBOS.start_workflow(changes)
    await eventually(lambda: _has_steps("changed", 2))
    await DBOS.cancel_workflow("changed")
    await DBOS.resume_workflow("changed")
    await eventually(lambda: any(record.levelno == logging.ERROR for record in collected.records))
    (parked,) = [record for record in collected.records if record.levelno == logging.ERROR]
    assert (parked.name, parked.workflow_id, parked.replaying) == ("dbos_async", "changed", True)


async def test_the_logger_of_dbos_knows_its_workflow_and_repeats_nothing(dbos: DBOS) -> None:
    @DBOS.workflow(name="logged logs")
    async def logs() -> None:
        DBOS.logger.warning("begins")
        await charge()
        await DBOS.recv("go", timeout_seconds=None)

    handler = Collected()
    DBOS.logger.addHandler(handler)
    try:
        with SetWorkflowID("logs"):
            handle = await DBOS.start_workflow(logs)
        await eventually(lambda: _has_steps("logs", 2))
        await DBOS.cancel_workflow("logs")
        await DBOS.resume_workflow("logs")
        await DBOS.send("logs", None, "go")
        await handle.get_result()
    finally:
        DBOS.logger.removeHandler(handler)
    assert handler.places() == [("begins", "logs", "logged logs", "", 1, False)]


async def test_an_id_in_a_record_cannot_forge_a_line(dbos: DBOS) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(workflow_id)s %(message)s"))
    handler.addFilter(WorkflowContext())
    log.addHandler(handler)

    @DBOS.workflow()
    async def logs() -> None:
        log.warning("hello")

    try:
        with SetWorkflowID("x\nCRITICAL all is lost \x1b[2J"):
            await logs()
    finally:
        log.removeHandler(handler)
    assert out.getvalue() == "x\\nCRITICAL all is lost \\x1b[2J hello\n"


async def test_it_is_a_processor_of_structlog(dbos: DBOS) -> None:
    captured: list[Any] = []

    def collect(_logger: Any, _method: str, event: Any) -> str:
        captured.append(dict(event))
        raise structlog.DropEvent

    logger = structlog.wrap_logger(None, processors=[WorkflowContext(), collect])

    @DBOS.workflow(name="logged structured")
    async def structured() -> None:
        logger.info("begins", step="mine")
        await charge()
        await DBOS.recv("go", timeout_seconds=None)
        logger.info("ends")

    logger.info("outside")
    with SetWorkflowID("structured"):
        handle = await DBOS.start_workflow(structured)
    await eventually(lambda: _has_steps("structured", 2))
    await DBOS.cancel_workflow("structured")
    await DBOS.resume_workflow("structured")
    await DBOS.send("structured", None, "go")
    await handle.get_result()
    place = {"workflow_id": "structured", "workflow_name": "logged structured", "replaying": False}
    assert captured[:2] == [{"event": "outside"}, place | {"event": "begins", "step": "mine", "attempt": 1}]
    assert [event["event"] for event in captured[2:]] == ["ends"]
    assert captured[2]["attempt"] > 1


def test_the_option_is_a_bool() -> None:
    with pytest.raises(InvalidArgumentError, match="drop_replays"):
        WorkflowContext(drop_replays="yes")  # type: ignore[arg-type]  # a mistake
