"""The examples in the docstrings of the typed names and the messages run as they stand."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from typing import Any

import pytest
from pydantic import BaseModel

from dbos_async import DBOS, Envelope, Event, SendMessage, SetWorkflowID, Stream, Topic

NAMES: dict[str, Any] = {each.__name__: each for each in (BaseModel, DBOS, Envelope, Event, SendMessage, Stream, Topic)}


def example(documented: type) -> str:
    """The block of code after the first ``::`` of a docstring."""
    found = re.search(r"::\n\n((?:    .*\n|\n)+)", (inspect.getdoc(documented) or "") + "\n")
    assert found is not None, f"{documented.__name__} has no example"
    return textwrap.dedent(found[1])


@DBOS.workflow(name="runs an example")
async def runs(source: str) -> None:
    code = compile(source, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, dict(NAMES))
    if result is not None:
        await result


@DBOS.workflow(name="is sent to")
async def is_sent_to() -> None: ...


@pytest.mark.parametrize("documented", [Topic, Event, Stream, Envelope, SendMessage])
async def test_the_example_of_a_docstring_runs(dbos: DBOS, documented: type) -> None:
    with SetWorkflowID("order-18"):
        await (await DBOS.start_workflow(is_sent_to)).get_result()
    with SetWorkflowID("order-17"):
        handle = await DBOS.start_workflow(runs, example(documented))
    await DBOS.send("order-17", {"cents": 1000}, "paid")
    await handle.get_result()
