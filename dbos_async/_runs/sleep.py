"""A sleep that outlasts the process: its end is fixed in the database when it begins."""

from __future__ import annotations

from dbos_async._database.statement import Statement
from dbos_async._runs.context import WorkflowContext
from dbos_async._runs.step import Step
from dbos_async._runs.waiting import wait

SLEEP = Statement(
    "SLEEP",
    """
    -- The step is recorded when the sleep begins, with the time when it will be complete. The clock is the database's.
    with calls as materialized (
        select c.*, coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) as holds,
               s.verb as recorded_verb, s.key as recorded_key, s.deadline
        from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::float8[])
            as c(n, workflow_id, attempt, branch, number, seconds)
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.workflow_id limit 1
        ) as w on true
        left join lateral (
            select verb, key, deadline from dbos_async.steps
            where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
        ) as s on true
    ),
    recorded as (
        insert into dbos_async.steps (workflow_id, branch, number, verb, key, deadline, completed_at)
        select workflow_id, branch, number, 'sleep', '', ends_at, ends_at
        from (select *, clock_timestamp() + make_interval(secs => seconds) as ends_at from calls) as c
        where holds and recorded_verb is null
        order by workflow_id, branch, number
    )
    select n,
           case when not holds then 'lost'
                when recorded_verb is not null and deadline <= clock_timestamp() then 'recorded'
                else 'wait' end as outcome,
           null::json as output, null::json as error, recorded_verb, recorded_key,
           coalesce(extract(epoch from deadline - clock_timestamp())::float8, seconds) as seconds_left
    from calls
    """,
)


async def sleep(context: WorkflowContext, seconds: float) -> None:
    """Sleep until ``seconds`` after the first time that the run came here, by the database's clock."""
    step = Step(context, "sleep", "")
    # A change of the key tells nothing here. It keeps the slow interval, in case this machine sleeps, too.
    await wait(step, SLEEP, (*step.columns, seconds), (step.run.end_key,))
