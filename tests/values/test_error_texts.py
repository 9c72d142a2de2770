"""Exceptions keep their type and their text, and their tracebacks are stored as text: promises W2, D1 and D5."""

from __future__ import annotations

import abc
import asyncio
import gc
import json
import pickle
import traceback
import weakref
from datetime import datetime
from email.message import Message
from typing import Annotated, Any
from urllib.error import HTTPError

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from dbos_async import DBOS, RecordedError, SetWorkflowID
from dbos_async._serialization import tracebacks, validation_errors
from dbos_async._serialization.exceptions import decode_error, encode_error
from tests.support.failing import Client, Kind, ServiceError, local_error
from tests.support.models import NOW, NoModel, there_and_back
from tests.support.programs.asks import told


class CarefulError(Exception):
    """Nothing of it may run when it is read."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client

    def __init_subclass__(cls) -> None:
        raise AssertionError("__init_subclass__ was run")

    def __str__(self) -> str:
        return f"it was {self.client.name}"


class WithoutTextError(Exception):
    def __str__(self) -> str:
        raise OSError("no")


def test_w2_an_exception_keeps_its_text_whatever_its_str_needs() -> None:
    error = ServiceError(Kind.BUSY)
    again = there_and_back(error)
    assert type(again) is ServiceError
    assert (again.kind, again.at, str(again)) == (Kind.BUSY, NOW, "the service is busy since 2026 ")
    error = ServiceError(Kind.BUSY, Client())
    for again in (
        there_and_back(error),
        there_and_back(there_and_back(error)),
        pickle.loads(pickle.dumps(there_and_back(error))),
    ):
        assert isinstance(again, ServiceError)
        assert type(again).__qualname__ == "ServiceError"
        assert str(again) == str(error) == "the service is busy since 2026 a client"
    assert str(there_and_back(WithoutTextError("x"))) == "<WithoutTextError>"
    for argument in (NoModel(), NOW, {1: 2}, Kind.BUSY, float("nan"), b"\xff", {3}, (1, Kind.BUSY)):
        for kind in (KeyError, ValueError, ServiceError):
            for args in ((argument,), ("a", argument)):
                plain = Exception.__new__(kind, *args)
                plain.args = args
                if kind is not ServiceError:
                    again = there_and_back(there_and_back(plain))
                    assert (type(again), str(again)) == (kind, str(plain))


def test_d1_no_code_of_a_class_runs_to_keep_a_text() -> None:
    text = encode_error(CarefulError(Client()))
    assert json.loads(text)["message"] == "it was a client"
    again = decode_error(text)
    assert isinstance(again, CarefulError)
    assert str(again) == "it was a client"


class AbstractError(Exception, abc.ABC):
    def __str__(self) -> str:
        return f"it was {self.args[0].name}"


class DelegatingError(Exception):
    """As `urllib.error.HTTPError`, it asks something else for what it does not have."""

    def __init__(self, client: Client, code: int) -> None:
        super().__init__(code)
        self.client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["client"], name)

    def __str__(self) -> str:
        return f"{self.name} said {self.args[0]}"


def test_w2_an_exception_keeps_its_text_through_steps_and_workflows() -> None:
    errors = [
        AbstractError(Client()),
        DelegatingError(Client(), 404),
        HTTPError("http://a", 404, "none", Message(), None),
    ]
    for error in errors:
        # A step raises it, its workflow does not catch it, and neither does the parent of that workflow.
        again = there_and_back(there_and_back(there_and_back(error)))
        assert isinstance(again, type(error))
        assert str(again) == str(error)
        assert "".join(traceback.format_exception(again)).splitlines()[-1].endswith(f": {error}")
        error.add_note("tried twice")
        again = there_and_back(there_and_back(error))
        assert again.__notes__ == ["tried twice"]


class Order(BaseModel):
    amount: int = Field(gt=0)
    due: datetime = NOW
    tags: list[str] = []


class Secretive(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)
    amount: int


def refuse(value: Any) -> Any:
    if value == "custom":
        raise PydanticCustomError("odd", "it is {what} {{so}}", {"what": "odd"})
    assert value != "assert", "asserted {x}"
    raise ValueError("refused {y}")


INVALID: list[tuple[Any, Any, bool]] = [
    (Order, '{"amount": "many"}', True), (Order, "[1]", True), (Order, "{", True),
    (Order, '{"amount": -1, "tags": [1, {}], "due": "x"}', True),
    (Order, {"amount": NoModel(), "due": Kind.BUSY, "tags": (1, NOW)}, False),
    (Order, 7, False), (Secretive, {"amount": "x"}, False),
    (Annotated[str, AfterValidator(refuse)], "custom", False), (Annotated[str, AfterValidator(refuse)], "assert", False),
    (Annotated[str, AfterValidator(refuse)], "other", False), (int | datetime | Order, "x" * 100, False), (Kind, "y", False),
    (list[int], ["x"] * 300, False), (dict[str, int], {"a": "x", "b": Client}, False),
    (Order, {"amount": {1: 2}, "tags": {"a"}}, False),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value", "is_json"), INVALID, ids=range(len(INVALID)))
def test_w2_a_validation_error_of_pydantic_is_caught_as_itself_with_its_text(
    declared: Any, value: Any, is_json: bool
) -> None:
    adapter = TypeAdapter[Any](declared)
    with pytest.raises(ValidationError) as raised:
        adapter.validate_json(value) if is_json else adapter.validate_python(value)
    error = raised.value
    again = there_and_back(there_and_back(error))
    assert isinstance(again, ValidationError)
    assert again.title == error.title
    if error.error_count() > validation_errors.MAX_LINES:
        assert again.error_count() == validation_errors.MAX_LINES
        return
    assert str(again) == str(error)
    assert [(one["type"], one["loc"], one["msg"]) for one in again.errors()] == [
        (one["type"], one["loc"], one["msg"]) for one in error.errors()
    ]


def test_w2_a_local_exception_class_is_the_same_type_in_the_process_that_raised_it() -> None:
    one, other = local_error("one"), local_error("other")
    for error in (one, other):
        again = there_and_back(there_and_back(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
    text, gone = encode_error(one), weakref.ref(type(one))
    # What another process, or this one after the class is gone, makes of it.
    del one, again, error
    gc.collect()
    assert gone() is None
    assert isinstance(decode_error(text), RecordedError)
    assert str(decode_error(text)).startswith("tests.support.failing:local_error.<locals>.OwnError: one: x")


def deep(levels: int) -> None:
    secret = "a secret"  # noqa: F841  # a local variable, which no traceback may show
    if not levels:
        raise ServiceError(Kind.BUSY)
    deep(levels - 1)


def test_d5_the_traceback_is_stored_as_text_and_bounded() -> None:
    with pytest.raises(ServiceError) as raised:
        deep(300)
    record = json.loads(encode_error(raised.value))
    text = record["traceback"]
    assert "raise ServiceError(Kind.BUSY)" in text
    assert "test_error_texts.py" in text
    assert '"a secret"' not in text
    assert len(text) <= tracebacks.MAX_LENGTH
    assert text.count("in deep") <= tracebacks.MAX_FRAMES
    again = decode_error(json.dumps(record))
    assert again.__traceback__ is None
    assert json.loads(encode_error(again))["traceback"] == text
    assert isinstance(decode_error('{"type": "builtins:ValueError", "traceback": 7}'), RecordedError)


@DBOS.step(name="falls")
async def falls() -> None:
    deep(2)


@DBOS.step(name="falls locally")
async def falls_locally() -> None:
    raise OWN


OWN = local_error("here")


@DBOS.workflow(name="catches what falls")
async def catches_what_falls() -> str:
    try:
        await falls_locally()
    except type(OWN) as error:
        seen = str(error)
    try:
        Order.model_validate({"amount": 0})
    except ValidationError as error:
        seen += f"; {told(error)['type']}"
    await falls()
    return seen


@DBOS.workflow(name="cancels its own task")
async def cancels_itself() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await task


async def test_d5_tracebacks_are_shown_by_the_status_and_the_steps_of_a_workflow(database_url: str) -> None:
    async with DBOS(database_url):
        with SetWorkflowID("w"), pytest.raises(ServiceError, match="the service is busy since 2026 "):
            await catches_what_falls()
        local, step = await DBOS.list_workflow_steps("w")
        handle = await DBOS.retrieve_workflow("w")
        status = await handle.get_status()
    assert local.error["message"] == "here: x"
    for error in (step.error, status.error):
        assert "raise ServiceError(Kind.BUSY)" in error["traceback"]


async def test_d5_a_workflow_that_ended_by_its_own_cancelled_error_says_so(database_url: str) -> None:
    async with DBOS(database_url):
        with pytest.raises(RecordedError, match="ended by a CancelledError of its own.*not by cancel_workflow"):
            await cancels_itself()
