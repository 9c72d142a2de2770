"""The public surface, parameter by parameter: what each function is called with, and what it must refuse.

A parameter that is not in `KINDS`, or a public name that `surface` does not find a place for, fails the tests of this module's
user. So whoever adds one says here what may be passed.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request

import dbos_async
from dbos_async import (
    DBOS,
    DBOSClient,
    Event,
    EventOf,
    Question,
    SendMessage,
    SetApplicationVersion,
    SetStartDelay,
    SetWorkflowID,
    SetWorkflowTimeout,
    Start,
    Stream,
    StreamOf,
    Topic,
    WorkflowHandle,
    embedded,
    fastapi,
    page,
)
from dbos_async.logs import WorkflowContext
from tests.support.workflows import ECHOES, Echoes, echo, echo_in_a_step
from tests.support.wrong_values import (
    LIVES,
    NO_AGES,
    NO_DURATIONS,
    NO_FUNCTIONS,
    NO_HEADERS,
    NO_INTS,
    NO_MESSAGES,
    NO_MOMENTS,
    NO_NUMBERS,
    NO_STEPS,
    NO_TEXTS,
    NO_URLS,
    NO_VALUES,
    OBJECTS,
    UNSTORABLE,
    Mute,
    Shouts,
)


@dataclass(frozen=True)
class Kind:
    """What is passed as a parameter: one value that is right, and values that must be refused."""

    right: Any
    wrong: tuple[Any, ...]
    takes_none: bool = False


class Missing:
    """Stands for a parameter that is left out."""


ASKS = Question[Any, Any]("quote", Any, Any)

KEY = Kind("key", (*NO_TEXTS, "", *UNSTORABLE, None))
ID = Kind(LIVES, KEY.wrong)
SECONDS = Kind(0, NO_NUMBERS, takes_none=True)
DURATION = Kind(1, NO_DURATIONS)
BOUNDED = Kind(1, (*NO_DURATIONS, float("inf"), 10**400))
COUNT = Kind(1, (0, -1, *NO_INTS))
FLAG = Kind(True, (0, 1, "yes", "", None, b"", *OBJECTS))
FILTER = Kind(None, KEY.wrong[:-1], takes_none=True)

CURSOR = Kind(None, ("", "x", "WzFd", *NO_TEXTS, *UNSTORABLE), takes_none=True)

KINDS: dict[str, Kind] = {
    "after": FILTER,
    "allow": Kind(None, (5, "x", object()), takes_none=True),
    "answer_type": Kind(int, (5, object(), len, Callable[[], int], "1 +", b"int", Mute())),
    "app": Kind(Starlette(), (5, None, object(), Starlette)),
    "application_version": Kind("v", KEY.wrong),
    "args": Kind((1,), ((), (1, 2), (object(),), (float("nan"),), ("\ud800",))),
    "backoff_rate": BOUNDED,
    "cursor": CURSOR,
    "before": Kind(0, (-1, *NO_INTS)),
    "children": FLAG,
    "client": Kind(None, (5, "x", DBOS, object()), takes_none=True),
    "connect_timeout_seconds": DURATION,
    "connection": Kind(None, (5, "x", object(), Mute(), Shouts()), takes_none=True),
    "cleanup_seconds": Kind(None, (*NO_NUMBERS, float("inf"), 10**400, 10**10), takes_none=True),
    "delay_seconds": Kind(None, (*NO_NUMBERS, float("inf"), 10**400, 10**10), takes_none=True),
    "destination_id": ID,
    "directory": Kind(Path("x"), (5, b"x", "", "a\0b", True, object())),
    "drain_seconds": DURATION,
    "dry_run": FLAG,
    "event": Kind("key", (*KEY.wrong[:-1], Stream("s", int))),
    "event_stream_seconds": Kind(1, (*BOUNDED.wrong, 0)),
    "executor_id": FILTER,
    "function": Kind(echo, (*NO_FUNCTIONS, "echo")),
    "headers": Kind(None, NO_HEADERS, takes_none=True),
    "heartbeat_seconds": Kind(1, (*BOUNDED.wrong, 0)),
    "id_prefix": Kind(None, (*NO_TEXTS, *UNSTORABLE), takes_none=True),
    "idempotency_key": FILTER,
    "inside": Kind(None, (5, "x", object()), takes_none=True),
    "instance": Kind(ECHOES, (5, "x", None, echo, Echoes, Echoes(), *OBJECTS)),
    "interval_seconds": BOUNDED,
    "jitter": FLAG,
    "key": Kind("key", (*KEY.wrong, Topic("t", int))),
    "kwargs": Kind({}, ({"nobody": 1}, {"value": 1})),
    "limit": COUNT,
    "listen": FLAG,
    "read_url": Kind("postgresql://localhost/shop", NO_URLS, takes_none=True),
    "listen_url": Kind("postgresql://localhost/shop", NO_URLS, takes_none=True),
    "long_poll_seconds": Kind(1, (*BOUNDED.wrong, 0)),
    "max_attempts": COUNT,
    "max_concurrent": COUNT,
    "max_connections": COUNT,
    "max_interval_seconds": SECONDS,
    "max_bytes": Kind(1, (0, -1, 2**24 + 1, *NO_INTS)),
    "max_seconds": Kind(1, (*NO_DURATIONS, 60.1, float("inf"), 10**400)),
    "max_values": Kind(1, (0, -1, 10_001, *NO_INTS)),
    "max_blocked_seconds": Kind(1, (*NO_DURATIONS, 0, 0.9)),
    "max_payload_bytes": COUNT,
    "max_recovery_attempts": Kind(0, (-1, "x", 1.5, True, 2**31, float("nan"), b"1", Mute()), takes_none=True),
    "isolation": Kind("serializable", (5, None, "", "READ COMMITTED", "read uncommitted", b"serializable", *OBJECTS)),
    "max_running": COUNT,
    "max_transactions": COUNT,
    "sessions": Kind(None, (5, "x", object(), echo, len, [], Mute()), takes_none=True),
    "message": Kind(1, NO_VALUES),
    "message_id": Kind("018f3b9e-0000-7000-8000-000000000000", (5, None, b"x" * 16, "x", "", "\0", "\ud800", *OBJECTS)),
    "messages": Kind((), NO_MESSAGES),
    "migrate": FLAG,
    "moment": Kind(datetime(2026, 1, 1, tzinfo=UTC), (None, *NO_MOMENTS)),
    "name": KEY,
    "newest_first": FLAG,
    "offset": Kind(0, (-1, *NO_INTS)),
    "older_than": Kind(timedelta(days=30), NO_AGES),
    "prefix": Kind("/health", (*NO_TEXTS, None, "health", "/health/")),
    "drop_replays": FLAG,
    "telemetry": Kind(None, FLAG.wrong, takes_none=True),
    "on_retry": Kind("rewind", (*NO_TEXTS, "", "Rewind", "none", None)),
    "parent_id": FILTER,
    "password": Kind(None, (5, "secret", b"secret", [], object(), Shouts(), Mute()), takes_none=True),
    "patch": FILTER,
    "payloads": FLAG,
    "per_second": COUNT,
    "question": Kind(ASKS, (5, "quote", None, b"quote", Topic("quote", int), Event("quote", int), *OBJECTS)),
    "read_only": FLAG,
    "request": Kind(
        Request({"type": "http", "method": "GET", "headers": [], "query_string": b""}), (5, None, "x", object())
    ),
    "retention": Kind(None, (*NO_AGES[:-1], 0, 0.5, timedelta(0)), takes_none=True),
    "retries_allowed": FLAG,
    "retry_on": Kind(
        OSError,
        (5, "OSError", b"x", KeyboardInterrupt, [KeyboardInterrupt], (OSError, 5), [len], OSError()),
        takes_none=True,
    ),
    "retry_seconds": BOUNDED,
    "schema": Kind(
        "shop",
        (
            *NO_TEXTS,
            "",
            "Shop",
            "1shop",
            "shop-1",
            "a.b",
            'a"b',
            "pg_shop",
            "information_schema",
            "x" * 41,
            "x\n",
        ),
        takes_none=True,
    ),
    "seconds": Kind(1, NO_NUMBERS, takes_none=True),
    "shared": FLAG,
    "since": Kind(datetime(2026, 1, 1, tzinfo=UTC), NO_MOMENTS),
    "start": Kind(None, (5, "checkout", b"x", echo, Start, *OBJECTS), takes_none=True),
    "start_step": Kind(1, NO_STEPS),
    "status": Kind(
        None, (5, b"PENDING", "pending", "", "\0", "\ud800", ["PENDING", 5], True, *OBJECTS[:3]), takes_none=True
    ),
    "stream": Kind("key", (*KEY.wrong, Event("e", int))),
    "streams": Kind(
        (StreamOf(LIVES, "key"),), ((5,), (None,), ("key",), (LIVES, "key"), (StreamOf(LIVES, "key"), object()))
    ),
    "waits": Kind(("key",), ((5,), (None,), (StreamOf(LIVES, "key"), object()), (Event("e", int),))),
    "timeout_seconds": SECONDS,
    "topic": Kind(None, (*NO_TEXTS, "", *UNSTORABLE, Event("e", int)), takes_none=True),
    "type": Kind(int, (5, object(), len, Callable[[], int], "1 +", b"int", Mute())),
    "unclaimable": FLAG,
    "until": Kind(datetime(2026, 1, 1, tzinfo=UTC), NO_MOMENTS),
    "url": Kind("postgresql://localhost/shop", (*NO_URLS, None)),
    "value": Kind(1, NO_VALUES),
    "values": Kind((), (5, None, "abc", b"abc", {"a": 1}, object(), Mute(), [object()], [float("nan")], [1] * 10_001)),
    "version": Kind(18, (0, -1, *NO_INTS)),
    "wait_if_parked": FLAG,
    "workflow": Kind(echo, (*NO_FUNCTIONS, "", "a\0b", "\ud800", "x" * 513)),
    "without_patch": FILTER,
    "workflow_id": ID,
    "workflow_ids": Kind(
        (), (5, None, "order-17", b"x", {"a": 1}, object(), Mute(), [5], [""], ["a\0b"], ["x" * 513], [None])
    ),
}
"""What each parameter takes, by its name."""

AFTER: Final = Kind(None, KINDS["message_id"].wrong, takes_none=True)
SEEN: Final = Kind(0, (-1, *[each for each in NO_INTS if each != 2**31]))
SEVERAL: Final = Kind(
    None,
    (*[each for each in NO_TEXTS if each != []], "", *UNSTORABLE, ["key", 5], ("key", ""), {"key": 1}),
    takes_none=True,
)
STATUSES: Final = Kind(None, (*KINDS["status"].wrong, {}, "", ["PENDING", "pending"], [["PENDING"]]), takes_none=True)
STEPS: Final = Kind(None, (*NO_TEXTS, "", "x", "1.", ".1", "-1", "\u0661", "1\n", "1.99999999999"), takes_none=True)
ENDED: Final = Kind("SUCCESS", (*STATUSES.wrong, "PENDING", "REPLAY_MISMATCH", None))
OTHER_KINDS: dict[str, Kind] = {
    "DBOS.ask request": KINDS["message"],
    "DBOS.run_step args": Kind((1,), ()),
    "DBOS.run_step function": Kind(
        abs, (*[each for each in NO_FUNCTIONS if not callable(each)], "echo", echo, echo_in_a_step)
    ),
    "DBOS.run_step kwargs": Kind({}, ()),
    # Which arguments fit is known in a workflow alone: test_continue_as_new.py has the wrong ones.
    "DBOS.continue_as_new args": Kind((), ()),
    "DBOS.continue_as_new kwargs": Kind({}, ()),
    "DBOS.start_step args": Kind((), ((1, 2), (1, 2, 3))),
    "DBOS.start_step kwargs": Kind({}, ({"surprise": 1}, {"value": 1, "other": 2})),
    "DBOS.start_step function": Kind(echo_in_a_step, (*NO_FUNCTIONS, "echo", echo)),
    "DBOS.get_answer question": Kind(None, KINDS["question"].wrong, takes_none=True),
    "DBOS.get_event after": SEEN,
    "DBOS.watch_event after": SEEN,
    "DBOSClient.get_event after": SEEN,
    "DBOSClient.watch_event after": SEEN,
    "EventOf after": SEEN,
    "DBOS.count_workflows application_version": SEVERAL,
    "DBOS.count_workflows name": SEVERAL,
    "DBOS.count_workflows status": STATUSES,
    "DBOS.count_workflows workflow_id": SEVERAL,
    "DBOS.describe_workflow before": CURSOR,
    "DBOS.list_messages after": AFTER,
    "DBOS.list_workflow_steps after": STEPS,
    "DBOS.list_workflows application_version": SEVERAL,
    "DBOS.list_workflows name": SEVERAL,
    "DBOS.list_workflows status": STATUSES,
    "DBOS.list_workflows workflow_id": SEVERAL,
    "DBOS.purge name": SEVERAL,
    "DBOS.purge status": ENDED,
    "DBOS.register_instance name": Kind(None, KINDS["name"].wrong, takes_none=True),
    "DBOS.sleep seconds": Kind(0.01, (*NO_DURATIONS, float("inf"), 10**400, 10**10)),
    "DBOSClient.ask request": KINDS["message"],
    "DBOSClient.get_answer question": Kind(None, KINDS["question"].wrong, takes_none=True),
    "DBOSClient.count_workflows application_version": SEVERAL,
    "DBOSClient.count_workflows name": SEVERAL,
    "DBOSClient.count_workflows status": STATUSES,
    "DBOSClient.count_workflows workflow_id": SEVERAL,
    "DBOSClient.describe_workflow before": CURSOR,
    "DBOSClient.list_messages after": AFTER,
    "DBOSClient.list_workflow_steps after": STEPS,
    "DBOSClient.list_workflows application_version": SEVERAL,
    "DBOSClient.list_workflows name": SEVERAL,
    "DBOSClient.list_workflows status": STATUSES,
    "DBOSClient.list_workflows workflow_id": SEVERAL,
    "DBOSClient.purge name": SEVERAL,
    "DBOSClient.purge status": ENDED,
    "fastapi.client_lifespan client": Kind(DBOSClient("postgresql://localhost/shop"), (None, 5, "x", DBOS, object())),
    "SendMessage headers": Kind(None, (5, "a", b"a", [("a", "b")], object()), takes_none=True),
    "SetStartDelay seconds": Kind(1, (*NO_NUMBERS, float("inf"), 10**400, 10**10), takes_none=True),
    "SendMessage message": Kind(1, ()),  # `send_bulk` encodes it, and refuses what has no JSON
}
"""Where the name does not say enough: the parameters of these functions."""

SHOWN: Final = {
    "Asked", "DescribedStep", "Envelope", "EventEnd", "EventSummary", "EventValue", "ExecutorStatus", "Health",
    "Message", "MessageCount", "PresentWait", "PurgeResult", "Rewind", "StepFunction", "StepHandle", "StreamEnd",
    "StreamSummary", "StreamValue", "StreamWriter", "TransactionFunction", "Wait", "Workflow",
    "WorkflowCount", "WorkflowDescription", "WorkflowHandle", "WorkflowStatus", "WorkflowStep",
}  # fmt: skip
"""Classes that functions and decorators return, and nobody makes."""
PROPERTIES: Final = {
    "DBOS.workflow_id",
    "DBOS.step_id",
    "DBOS.attempt",
    "DBOS.is_replaying",
    "DBOS.logger",
    "WorkflowHandle.workflow_id",
}
CONSTRUCTORS: Final = (
    DBOS, DBOSClient, SendMessage, SetApplicationVersion, SetStartDelay, SetWorkflowID, SetWorkflowTimeout, Start, Topic, Question,
    Event, EventOf, Stream, StreamOf, WorkflowContext,
)  # fmt: skip
MODULES: Final = (fastapi, embedded, page)
PROGRAMS: Final = {"cli", "lint"}
PUBLIC_MODULES: Final = {
    "client",
    "dbos",
    "embedded",
    "envelope",
    "errors",
    "fastapi",
    "keys",
    "logs",
    "page",
    "waits",
} | PROGRAMS


@dataclass(frozen=True)
class Entry:
    """One public function: by which name it is found, and its parameters."""

    name: str
    parameters: dict[str, inspect.Parameter]

    def kind(self, parameter: str) -> Kind:
        """What this parameter takes."""
        return OTHER_KINDS.get(f"{self.name} {parameter}") or KINDS[parameter]

    def wrong(self, parameter: str) -> list[Any]:
        """The values that this parameter must refuse; ``None`` is right where it is the default."""
        kind = self.kind(parameter)
        takes_none = kind.takes_none or self.parameters[parameter].default is None
        return [value for value in kind.wrong if value is not None or not takes_none]

    def arguments(self, parameter: str | None = None, value: Any = None) -> tuple[list[Any], dict[str, Any]]:
        """Right arguments, but for this parameter."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, each in self.parameters.items():
            given = value if name == parameter else self.kind(name).right
            if each.kind is each.VAR_POSITIONAL:
                args += given
            elif each.kind is each.VAR_KEYWORD:
                kwargs |= given
            elif each.kind is each.POSITIONAL_ONLY:
                args.append(given)
            elif name in (parameter, "timeout_seconds") or each.default is each.empty or self._needs(name, parameter):
                kwargs[name] = given  # A right value may name what never comes, and would be waited for.
        return args, kwargs

    def _needs(self, name: str, parameter: str | None) -> bool:
        """Whether this parameter is needed although it has a default, since the other one is not given."""
        if name == "workflow_id" and self.name.endswith(".list_messages"):
            return True  # else only few messages can be listed
        return f"{self.name} {name}" == "fastapi.stream_response key" and parameter != "event"


def surface() -> dict[str, Entry]:
    """Every public function, constructor, decorator and method, by its name."""
    found: dict[str, Any] = {each.__name__: each for each in CONSTRUCTORS}
    for owner in (DBOS, DBOSClient, WorkflowHandle):
        for name in dir(owner):
            if not name.startswith("_") and f"{owner.__name__}.{name}" not in PROPERTIES:
                found[f"{owner.__name__}.{name}"] = getattr(owner, name)
    for module in MODULES:
        for name, each in vars(module).items():
            if inspect.isfunction(each) and each.__module__ == module.__name__ and not name.startswith("_"):
                found[f"{module.__name__.rpartition('.')[2]}.{name}"] = each
    return {name: Entry(name, _parameters(each)) for name, each in found.items()}


def unplaced() -> list[str]:
    """The public names and parameters that this module does not know."""
    made = {each.__name__ for each in CONSTRUCTORS} | SHOWN
    names = [name for name in dbos_async.__all__ if name not in made and not _is_error(getattr(dbos_async, name))]
    modules = {each.name for each in pkgutil.iter_modules(dbos_async.__path__) if not each.name.startswith("_")}
    return [*names, *(modules - PUBLIC_MODULES)] + [
        f"{entry.name}({parameter}=)"
        for entry in surface().values()
        for parameter in entry.parameters
        if parameter not in KINDS
    ]


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    found = inspect.signature(function).parameters
    return {name: each for name, each in found.items() if name != "self"}
