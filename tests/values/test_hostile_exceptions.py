"""Stored exceptions that an attacker wrote: nothing in them runs or is imported (D1), without a database."""

from __future__ import annotations

import builtins
import json
import sys
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbos_async import RecordedError
from dbos_async._serialization.exceptions import decode_error
from tests.support.models import (
    JSON,
    there_and_back,
)

HOSTILE = [
    "null", "[]", "{}", "7", '"x"', '{"type": 7}', '{"type": "os:system", "args": ["exit 1"]}', "not json",
    '{"type": "builtins:eval", "args": ["1/0"]}', '{"type": "builtins:SystemExit"}', '{"type": "subprocess:Popen"}',
    '{"type": "this_module_is_not_there:Error"}', '{"type": "builtins:ValueError", "args": "abc", "notes": [1, {}]}',
    '{"type": "builtins:ValueError", "attributes": {"__class__": 1, "args": 5}}', '{"type": "builtins:ValueError.__new__"}',
    '{"type": "builtins:ExceptionGroup", "exceptions": []}', '{"type": "builtins:ValueError", "cause": {"type": []}}',
    '{"type": "builtins:ValueError", "notes": 7}', '{"type": "builtins:ExceptionGroup", "exceptions": 7}',
    '{"type": "dbos_async.errors:StreamClosedError", "args": []}', '{"type": "dbos_async.errors:annotations"}',
    '{"type": "antigravity:x"}',
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_d1_nothing_received_runs_code_or_triggers_an_import(text: str) -> None:
    modules = set(sys.modules)
    error = decode_error(text)
    assert isinstance(error, Exception)
    str(error)
    assert set(sys.modules) == modules


MORE_HOSTILE = [
    '{"type": "builtins:ValueError", "attributes": {"add_note": 1, "with_traceback": 2, "__notes__": 3}, "notes": ["x"]}',
    '{"type": "builtins:ValueError", "attributes": {"__class__": "x", "__dict__": 1, "__cause__": 2, "args": 3}}',
    '{"type": "dbos_async.errors:StreamTimeoutError", "args": ["a", "b", "c", "d"]}',
    '{"type": "dbos_async.errors:DBOSError.__init__"}',
    '{"type": "builtins:UnicodeDecodeError", "args": ["a", "x", -9999999999, -9999999998, "r"], "attributes": {"object": ""}}',
    '{"type": "builtins:UnicodeEncodeError", "args": ["utf-8", "x", 3, 4, "r"], "attributes": {"object": "w7HDsQ=="}}',
    '{"type": "builtins:UnicodeDecodeError"}',
    '{"type": "builtins:UnicodeDecodeError", "args": [1, 2, 3, 4, 5], "attributes": {"object": 7}}',
    '{"type": "builtins:OSError", "args": [[], {}, 7, 8, 9, 10]}',
    '{"type": "builtins:OSError", "attributes": {"errno": {}, "filename": []}}',
    '{"type": "builtins:ImportError", "attributes": {"msg": 5, "name": []}}',
    '{"type": "builtins:SyntaxError", "attributes": {"lineno": "x", "msg": {}}}',
    '{"type": "builtins:ExceptionGroup"}',
    '{"type": "builtins:ExceptionGroup", "args": ["x"], "exceptions": [{"type": "os:system"}]}',
    '{"type": "builtins:BaseExceptionGroup", "args": ["x"], "exceptions": [{"type": "builtins:KeyError"}]}',
    '{"type": ":"}',
    '{"type": ""}',
    '{"type": "pydantic_core:ValidationError", "args": ["x", []]}',
    '{"type": "pydantic_core._pydantic_core:ValidationError", "args": ["x"]}',
    '{"type": "builtins:ValueError", "args": [1e400, "\\u0000"]}',
    '{"type": "builtins:ValueError", "args": ["\\ud800"]}',
    '{"type": "builtins:ValueError", "cause": 7}',
    '{"type": "builtins:ValueError", "attributes": []}',
    '{"type": "builtins:ValueError", "message": {}}',
    '{"type": "builtins:ValueError", "cause": ' * 80 + '{"type": "x:y"}' + "}" * 80,
    "[" * 100_000,
    '{"type": "builtins:ValueError.args"}',
    '{"type": "builtins:Exception.mro"}',
    '{"type": "builtins:GeneratorExit"}',
    '{"type": "tests.values.test_hostile_exceptions:TRAP"}',
    '{"type": "tests.values.test_hostile_exceptions:Trap.x"}',
]


class Trap(Exception):  # noqa: N818
    """Whoever runs any of its code has lost."""

    def __new__(cls, *args: object) -> Self:
        raise AssertionError("__new__ was run")

    def __init__(self, *args: object) -> None:
        raise AssertionError("__init__ was run")

    def __setattr__(self, name: str, value: object) -> None:
        raise AssertionError("__setattr__ was run")

    @property
    def filename(self) -> str:
        raise AssertionError("a property was run")


TRAP = Exception.__new__(Trap)


@pytest.mark.parametrize("text", MORE_HOSTILE, ids=[f"{n} {text[:60]}" for n, text in enumerate(MORE_HOSTILE)])
def test_d1_hostile_records_are_errors_and_nothing_more(text: str) -> None:
    modules = set(sys.modules)
    error = decode_error(text)
    assert isinstance(error, Exception)
    assert str(error) is not None
    assert repr(error)
    assert isinstance(there_and_back(error), Exception)
    error.add_note("a note can be added")
    assert set(sys.modules) == modules


def test_d1_no_code_of_the_exception_runs_when_it_is_rebuilt() -> None:
    error = decode_error(
        '{"type": "tests.values.test_hostile_exceptions:Trap", "args": [1], "attributes": {"a": 2, "filename": "x"}}'
    )
    assert type(error) is Trap
    assert error.args == (1,)
    assert vars(error) == {"a": 2, "filename": "x"}


EXCEPTION_NAMES = sorted(
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
)


@given(
    st.sampled_from(EXCEPTION_NAMES), st.lists(JSON, max_size=6),
    st.dictionaries(st.sampled_from(["object", "errno", "filename", "msg", "x", "args", "__notes__"]), JSON), JSON,
)  # fmt: skip
def test_d1_any_record_of_a_built_in_exception_is_an_error_and_nothing_more(
    name: str, args: list[Any], attributes: dict[str, Any], other: Any
) -> None:
    record = {"type": f"builtins:{name}", "args": args, "attributes": attributes}
    for text in (
        json.dumps(record),
        json.dumps({**record, "cause": other}),
        json.dumps({**record, "exceptions": [record]}),
    ):
        error = decode_error(text)
        assert isinstance(error, Exception)
        assert str(error) is not None


@given(JSON)
def test_d1_any_json_can_stand_where_an_exception_was_stored(value: Any) -> None:
    assert isinstance(decode_error(json.dumps(value)), RecordedError)
    assert isinstance(decode_error(json.dumps({"type": "builtins:ValueError", "args": value})), Exception)
