"""Workflows: registered functions, and how one is started, by this process or for another.

A start is one statement that makes the workflow's row, together with the parent's step when a workflow starts it.
With an owner it begins here and now; without one, whoever knows its name and has room claims it.
"""

from __future__ import annotations

import functools
from collections.abc import Coroutine
from typing import Any, ParamSpec, TypeVar, cast

from dbos_async._database.calls import Call, Observer, Result, Row
from dbos_async._database.database import Database
from dbos_async._database.statement import Statement, optimistic
from dbos_async._database.wakeups import UNOWNED_KEY
from dbos_async._executor import launched, tracing
from dbos_async._executor.executor import Executor
from dbos_async._runs.context import StepContext, WorkflowContext, calling_context, check_live
from dbos_async._runs.issue import call_by, caller_columns, caller_in, issue
from dbos_async._runs.run import RunEnd
from dbos_async._runs.start_options import allowed_seconds, assigned
from dbos_async._runs.step import Step
from dbos_async._runs.transaction import check_connection, is_connection
from dbos_async._serialization.ids import ordered_id
from dbos_async._serialization.values import decode_value, size_error
from dbos_async._workflows.handle import WorkflowHandle
from dbos_async._workflows.registry import RegisteredWorkflow

P = ParamSpec("P")
R = TypeVar("R")

_START = """
    -- A row without an owner is for whoever claims it; one with an owner begins there as its first attempt.
    with calls as materialized (
        select c.*, coalesce(t.name, first_value(c.name) over (partition by c.id order by c.n)) as taken_name,
               t.name is not null as taken, coalesce(t.start_id = c.start_id, false) as taken_by_this,
               case when t.start_id = c.start_id then t.attempt / 1000000
                    else nextval('dbos_async.workflow_seq') end * 1000000 as attempts
        from unnest($1::int[], $2::text[], $3::text[], $4::json[], $5::text[], $6::text[], $7::text[], $8::uuid[],
                    $9::float8[], $10::bytea[])
            as c(n, id, name, input, owner, application_version, trace_parent, start_id, timeout_seconds, digest)
        left join lateral (
            select name, start_id, attempt from dbos_async.workflows where id = c.id limit 1
        ) as t on true
    ),
    made as materialized (
        select distinct on (id) * from calls where taken_name = name and not taken order by id, n
    ),
    inserted as (
        -- A row that somebody else makes at this moment lets the whole statement be repeated, and then it is seen.
        insert into dbos_async.workflows
            (id, name, input, owner, attempt, start_id, application_version, trace_parent, claimed_at, deadline)
        select id, name, input, owner, attempts + case when owner is null then 0 else 1 end, start_id,
               application_version, trace_parent, case when owner is not null then clock_timestamp() end,
               clock_timestamp() + make_interval(secs => timeout_seconds)
        from made
    ),
    announced as (select dbos_async.announce(string_agg(distinct digest, '')) from made where owner is null)
    select n, 'done' as outcome, null::json as output,
           case when taken_name <> name then json_build_object(
               'type', 'dbos_async.errors:WorkflowConflictError', 'args', json_build_array(id, taken_name, name)) end as error,
           taken_by_this or n in (select n from made) as started, attempts
    from calls, announced
    """

START = Statement(
    "START",
    _START,
    sql_if_new="""
    -- Nobody has had these ids before.
    with calls as materialized (
        select c.*, nextval('dbos_async.workflow_seq') * 1000000 as attempts
        from unnest($1::int[], $2::text[], $3::text[], $4::json[], $5::text[], $6::text[], $7::text[], $8::uuid[],
                    $9::float8[], $10::bytea[])
            as c(n, id, name, input, owner, application_version, trace_parent, start_id, timeout_seconds, digest)
    ),
    inserted as (
        insert into dbos_async.workflows
            (id, name, input, owner, attempt, start_id, application_version, trace_parent, claimed_at, deadline)
        select id, name, input, owner, attempts + case when owner is null then 0 else 1 end, start_id,
               application_version, trace_parent, case when owner is not null then clock_timestamp() end,
               clock_timestamp() + make_interval(secs => timeout_seconds)
        from calls
    ),
    announced as (select dbos_async.announce(string_agg(distinct digest, '')) from calls where owner is null)
    select n, 'done' as outcome, null::json as output, null::json as error, true as started, attempts
    from calls, announced
    """,
)

START_BY_ID = Statement("START_BY_ID", _START)

START_CHILD = optimistic(
    "START_CHILD",
    """
    -- The same for a workflow that another one starts: its step and the row are made together.
    with calls as materialized (
        select c.*, s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
               case when not case when c.number is null then coalesce(held.attempt = c.attempt and held.status = 'PENDING', false)
                                  else coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) end then 'lost'
                    when s.verb is not null then 'recorded' else 'done' end as outcome,
               coalesce(t.name, first_value(c.name) over (partition by c.id order by c.n)) as taken_name,
               t.name is not null as taken, coalesce(t.start_id = c.start_id, false) as taken_by_this,
               case when t.start_id = c.start_id then t.attempt / 1000000
                    else nextval('dbos_async.workflow_seq') end * 1000000 as attempts
        from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[], $7::text[], $8::text[],
                    $9::json[], $10::text[], $11::text[], $12::text[], $13::uuid[], $14::float8[], $15::bytea[])
            as c(n, parent_id, attempt, branch, number, parent_step, id, name,
                 input, owner, application_version, trace_parent, start_id, timeout_seconds, digest)
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.parent_id and c.number is not null limit 1
        ) as w on true
        -- The inside of a step has no row that could decide, so it holds on to its workflow until the commit.
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.parent_id and c.number is null for share
        ) as held on true
        left join lateral (the recorded step) as s on true
        left join lateral (
            select name, start_id, attempt from dbos_async.workflows where id = c.id limit 1
        ) as t on true
    ),
    judged as materialized (
        select *, case when taken_name <> name then json_build_object(
                   'type', 'dbos_async.errors:WorkflowConflictError', 'args', json_build_array(id, taken_name, name))
               end as conflict
        from calls
    ),
    recorded as (
        insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, error, completed_at)
        select parent_id, branch, number, 'start_workflow', name,
               case when conflict is null then to_json(id) end, conflict, clock_timestamp()
        from judged where outcome = 'done' and number is not null
        order by parent_id, branch, number
    ),
    made as materialized (
        select distinct on (id) * from judged
        where outcome = 'done' and conflict is null and not taken order by id, n
    ),
    inserted as (
        -- A row that somebody else makes at this moment lets the whole statement be repeated, and then it is seen.
        insert into dbos_async.workflows
            (id, name, input, owner, attempt, start_id, parent_id, parent_step, application_version, trace_parent,
             claimed_at, deadline)
        select id, name, input, owner, attempts + case when owner is null then 0 else 1 end, start_id,
               parent_id, parent_step, application_version, trace_parent,
               case when owner is not null then clock_timestamp() end,
               clock_timestamp() + make_interval(secs => timeout_seconds)
        from made
    ),
    announced as (select dbos_async.announce(string_agg(distinct digest, '') filter (where owner is null)) from made)
    select n, outcome, case when outcome = 'recorded' then recorded_output else to_json(id) end as output,
           case when outcome = 'recorded' then recorded_error else conflict end as error,
           recorded_verb, recorded_key, taken_by_this or n in (select n from made) as started, attempts
    from judged, announced
    """,
    whose="parent_id",
)


class Workflow(RegisteredWorkflow[P, R]):
    """A registered workflow. Awaited directly it runs durably: started, and waited for; inside a workflow as its child."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast("R", await (await start_here(self, args, kwargs)).get_result())


class StartOnCommit(Observer):
    """Begins the run when the start is committed, whether or not its caller still waits."""

    __slots__ = ("_executor", "_row", "end")

    def __init__(self, executor: Executor, row: Row) -> None:
        self._executor, self._row = executor, row
        self.end: RunEnd | None = None

    def on_result(self, call: Call, result: Result) -> None:
        # A start that is repeated after its result was lost knows the row that it had made.
        if result[0]["started"]:
            workflow_id, name, text, _, _, trace_parent, _, seconds_left, _ = self._row
            attempt = result[0]["attempts"] + 1
            run = self._executor.begin(
                workflow_id, name, text, attempt, trace_parent=trace_parent, seconds_left=seconds_left
            )
            self.end = None if run is None else run.end


async def start(
    database: Database,
    name: str,
    text: str,
    result_type: Any,
    executor: Executor | None,
    connection: Any = None,
) -> WorkflowHandle[Any]:
    """Make a workflow's row, unless its id has one. It begins in this executor if that has a free slot."""
    # A start in the user's transaction may never be committed, so it has no owner: an executor claims it after the commit.
    owner = executor.reserve() if executor is not None and connection is None else None
    try:
        return await _start(database, name, text, result_type, executor, owner, connection)
    finally:
        if executor is not None:
            executor.release(owner)


async def _start(
    database: Database,
    name: str,
    text: str,
    result_type: Any,
    executor: Executor | None,
    owner: str | None,
    connection: Any,
) -> WorkflowHandle[Any]:
    context = calling_context(database)
    if connection is not None:
        check_connection(connection, context, "start_workflow")
    if isinstance(context, StepContext):
        check_live(context, "start_workflow")
    invalid = size_error(text, database.max_payload_bytes, f"The call of workflow {name!r}")
    if invalid is not None and not isinstance(context, WorkflowContext):
        raise invalid
    ticket = assigned.get()
    start_id = ordered_id()
    workflow_id = str(start_id) if ticket is None else ticket.use()
    version = executor.application_version if executor else None
    key = None if owner else UNOWNED_KEY
    row: Row = (
        workflow_id, name, text, owner, version, tracing.trace_parent(), start_id, allowed_seconds.get(), key,
    )  # fmt: skip
    on_commit = None if executor is None or owner is None else StartOnCommit(executor, row)
    caller = caller_in(context, "start_workflow", name)
    statement = START if ticket is None else START_BY_ID
    if caller is not None:
        statement, row = START_CHILD, (*caller_columns(caller), caller.path, *row)
    call = call_by(
        caller,
        statement,
        (row,),
        about=workflow_id,
        size=len(text),
        wakes=() if key is None else (key,),
        observer=on_commit,
    )
    result = await issue(database, caller, call, verb="start_workflow", connection=connection, invalid=invalid)
    if isinstance(caller, Step):
        child_id = await caller.decode_or_reject(result, functools.partial(_decode_id, name))
        return WorkflowHandle(database, child_id, result_type)
    result.value()
    return WorkflowHandle(database, workflow_id, result_type, None if on_commit is None else on_commit.end)


def _decode_id(name: str, recorded: str | None) -> str:
    child_id: str = decode_value(recorded or "null", str, what=f"The recorded id of the started workflow {name!r}")
    return child_id


def start_here(
    workflow: RegisteredWorkflow[Any, Any], args: Any, kwargs: Any
) -> Coroutine[Any, Any, WorkflowHandle[Any]]:
    """Start a workflow in the launched executor; a start in a workflow is a step of it."""
    executor = launched.executor()
    connection, kwargs = split_connection(workflow, kwargs)
    text = workflow.signature.encode_call(args, kwargs)
    return start(executor.database, workflow.name, text, workflow.signature.result_type, executor, connection)


def split_connection(workflow: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The connection that a start was given, and the arguments of the workflow, which may have one of that name, too."""
    connection = kwargs.get("connection")
    takes_one = isinstance(workflow, RegisteredWorkflow) and workflow.signature.takes("connection")
    if connection is None or (takes_one and not is_connection(connection)):
        return None, kwargs
    return connection, {name: value for name, value in kwargs.items() if name != "connection"}
