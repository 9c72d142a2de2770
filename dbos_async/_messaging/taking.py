"""The statements of a receive: one picks the message, records the receiver's step with it, and marks it received.

The step's row decides: where it was completed already, nothing is taken. The first look takes the step for new, a later one for
one that waits, and whoever repeats a call knows nothing.
"""

from __future__ import annotations

from dbos_async._database.statement import Statement

_CALLS = """unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[], $7::text[], $8::float8[])
            as c(n, workflow_id, attempt, branch, number, verb, topic, timeout_seconds)
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.workflow_id limit 1
        ) as w on true"""
"""The calls, each with the fence of its workflow as it stands."""

_OUTPUT = """case when c.verb = 'recv' then m.payload
                    when m.id is not null then json_build_object(
                        'id', m.id, 'destination_id', c.workflow_id, 'topic', nullif(c.topic, ''), 'payload', m.payload,
                        'sender_id', m.sender_id, 'sent_at', m.sent_at, 'headers', coalesce(m.headers, '{}')) end as output"""
"""What the step records of the message: the payload, or all of the envelope."""


def _sql(text: str) -> str:
    return text.replace("the calls", _CALLS).replace("the output", _OUTPUT)


_LOOK_AND_TAKE = _sql("""
    -- A step may be recorded already, or have begun to wait.
    with calls as materialized (
        select c.*, coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) as holds,
               s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
               s.message_id as recorded_message_id, s.completed_at,
               case when s.verb is null then clock_timestamp() + make_interval(secs => c.timeout_seconds)
                    else s.deadline end as deadline
        from the calls
        left join lateral (
            select verb, key, output, error, message_id, deadline, completed_at from dbos_async.steps
            where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
        ) as s on true
    ),
    turns as materialized (
        select *, row_number() over (partition by workflow_id, topic order by n) as turn
        from calls
        where holds and completed_at is null
          and (recorded_verb is null or (recorded_verb = verb and recorded_key = topic))
    ),
    -- Receives side by side take side by side: the second one skips what the first one picks.
    decided as materialized (
        select c.*, m.id as message_id,
               m.id is null and coalesce(c.deadline <= clock_timestamp(), false) as due,
               the output
        from (select * from turns order by workflow_id, topic, turn) as c
        left join lateral (
            select id, payload, sender_id, sent_at, headers from dbos_async.messages
            where destination_id = c.workflow_id and topic_digest = dbos_async.digest(c.topic) and received_at is null
            order by seq offset c.turn - 1 limit 1
            for update
        ) as m on true
    ),
    recorded as (
        insert into dbos_async.steps as s
            (workflow_id, branch, number, verb, key, output, message_id, deadline, completed_at)
        select workflow_id, branch, number, verb, topic, output, message_id, deadline,
               case when message_id is not null or due then clock_timestamp() end
        from decided
        where message_id is not null or due or recorded_verb is null
        order by workflow_id, branch, number
        on conflict (workflow_id, branch, number) do update
            set output = excluded.output, message_id = excluded.message_id, completed_at = excluded.completed_at
            where s.completed_at is null and excluded.completed_at is not null
              and s.verb = excluded.verb and s.key = excluded.key
        returning workflow_id, branch, number
    ),
    outcomes as materialized (
        select d.n, d.message_id, d.output, d.deadline,
               case when (d.workflow_id, d.branch, d.number) in (select workflow_id, branch, number from recorded)
                    then case when d.message_id is not null or d.due then 'done' else 'wait' end
                    when d.message_id is null and not d.due and d.recorded_verb is not null then 'wait'
                    else 'again' end as outcome
        from decided as d
    ),
    received as (
        -- Found by their ids alone: these rows are locked, and they were unreceived when they were.
        update dbos_async.messages set received_at = clock_timestamp()
        where id = any (array(select message_id from outcomes where outcome = 'done' and message_id is not null))
    )
    select n, outcome, output, null::json as error,
           extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
           null::text as recorded_verb, null::text as recorded_key, message_id
    from outcomes
    union all
    select n, case when holds then 'recorded' else 'lost' end, recorded_output, recorded_error, null,
           recorded_verb, recorded_key, recorded_message_id
    from calls
    where not (holds and completed_at is null
               and (recorded_verb is null or (recorded_verb = verb and recorded_key = topic)))
    """)

_TAKE = _sql("""
    -- Nothing is recorded of these steps yet.
    with calls as materialized (
        select c.*, coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) as holds,
               clock_timestamp() + make_interval(secs => c.timeout_seconds) as deadline
        from the calls
    ),
    -- Receives side by side take side by side: the second one skips what the first one picks.
    decided as materialized (
        select c.*, m.id as message_id,
               m.id is not null or coalesce(c.deadline <= clock_timestamp(), false) as ripe,
               the output
        from (
            select *, row_number() over (partition by workflow_id, topic order by n) as turn from calls where holds
        ) as c
        left join lateral (
            select id, payload, sender_id, sent_at, headers from dbos_async.messages
            where destination_id = c.workflow_id and topic_digest = dbos_async.digest(c.topic) and received_at is null
            order by seq offset c.turn - 1 limit 1
            for update
        ) as m on true
    ),
    recorded as (
        insert into dbos_async.steps
            (workflow_id, branch, number, verb, key, output, message_id, deadline, completed_at)
        select workflow_id, branch, number, verb, topic, output, message_id, deadline, case when ripe then clock_timestamp() end
        from decided
        order by workflow_id, branch, number
    ),
    received as (
        -- Found by their ids alone: these rows are locked, and they were unreceived when they were.
        update dbos_async.messages set received_at = clock_timestamp()
        where id = any (array(select message_id from decided where message_id is not null))
    )
    select n, case when ripe then 'done' else 'wait' end as outcome, output, null::json as error,
           extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
           null::text as recorded_verb, null::text as recorded_key, message_id
    from decided
    union all
    select n, 'lost', null, null, null, null, null, null from calls where not holds
    """)

_TAKE_AGAIN = _sql("""
    -- The step has begun to wait. Mostly there is a message now, and where there is none the step says how long it waits.
    -- Of receives side by side the first one takes, and the others come again.
    with calls as materialized (
        select c.*, coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) as holds,
               row_number() over (partition by c.workflow_id, c.topic, c.attempt order by c.n) as turn
        from the calls
    ),
    decided as materialized (
        -- A message that is not any more what it was when it was found is left to another look.
        select c.n, c.workflow_id, c.branch, c.number, c.verb, c.topic, found.place, m.id as message_id,
               coalesce(s.deadline <= clock_timestamp(), false) as due,
               the output
        from (select * from calls where holds and turn = 1 order by workflow_id, topic) as c
        left join lateral (
            select ctid as place from dbos_async.messages
            where destination_id = c.workflow_id and topic_digest = dbos_async.digest(c.topic) and received_at is null
            order by seq limit 1
        ) as found on true
        left join lateral (
            select ctid as place, id, payload, sender_id, sent_at, headers from dbos_async.messages
            where ctid = found.place limit 1
            for update
        ) as m on m.place = found.place
        left join lateral (
            select deadline from dbos_async.steps
            where workflow_id = c.workflow_id and branch = c.branch and number = c.number and found.place is null limit 1
        ) as s on true
    ),
    recorded as (
        -- Always an update, since the row is there. Said as an insert it finds its row by the key alone.
        insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, output, message_id, completed_at)
        select workflow_id, branch, number, verb, topic, output, message_id, clock_timestamp()
        from decided where message_id is not null or due
        order by workflow_id, branch, number
        on conflict (workflow_id, branch, number) do update
            set output = excluded.output, message_id = excluded.message_id, completed_at = excluded.completed_at
            where s.completed_at is null and s.verb = excluded.verb and s.key = excluded.key
        returning workflow_id, branch, number
    ),
    outcomes as materialized (
        select n, place, message_id, output from decided
        where (workflow_id, branch, number) in (select workflow_id, branch, number from recorded)
    ),
    received as (
        -- Found by their places alone: these rows are locked there.
        update dbos_async.messages set received_at = clock_timestamp()
        where ctid = any (array(select place from outcomes where message_id is not null))
    )
    select n, 'done' as outcome, output, null::json as error, null::float8 as seconds_left,
           null::text as recorded_verb, null::text as recorded_key, message_id
    from outcomes
    union all
    select c.n, case when not c.holds or s.verb is null then 'lost'
                     when s.completed_at is not null or s.verb <> c.verb or s.key <> c.topic then 'recorded'
                     when c.turn > 1 or s.deadline <= clock_timestamp()
                          or c.n in (select n from decided where place is not null) then 'again'
                     else 'wait' end,
           s.output, s.error, extract(epoch from s.deadline - clock_timestamp())::float8, s.verb, s.key, s.message_id
    from calls as c
    left join lateral (
        select verb, key, output, error, message_id, deadline, completed_at from dbos_async.steps
        where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
    ) as s on true
    where c.n not in (select n from outcomes)
    """)

TAKE = Statement(
    "TAKE",
    _LOOK_AND_TAKE,
    sql_if_new=_TAKE,
    sql_when_waiting=Statement("TAKE_AGAIN", _LOOK_AND_TAKE, sql_if_new=_TAKE_AGAIN),
)

PUT_BACK = Statement(
    "PUT_BACK",
    """
    -- A receive was abandoned after it had taken its message: the message is unreceived, and the step has begun and not ended.
    -- There is no row that could decide, so it holds on to its workflow until the commit.
    with calls as materialized (
        select c.*, coalesce(held.attempt = c.attempt and held.status = 'PENDING', false) as holds,
               s.message_id as taken_id
        from (
            select * from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[], $7::text[], $8::uuid[])
                as c(n, workflow_id, attempt, branch, number, verb, topic, message_id)
            order by workflow_id, branch, number
        ) as c
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.workflow_id for share
        ) as held on true
        -- It may not have been asked for yet, when a send only might have handed it something.
        left join lateral (
            select message_id from dbos_async.steps
            where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
        ) as s on true
    ),
    undone as (
        -- Always an update, since the row is there. Said as an insert it finds its row by the key alone.
        insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, message_id)
        select workflow_id, branch, number, verb, topic, message_id from calls
        where holds and taken_id = message_id
        order by workflow_id, branch, number
        on conflict (workflow_id, branch, number) do update
            set output = null, message_id = null, completed_at = null
            where s.message_id = excluded.message_id
        returning workflow_id, branch, number
    ),
    unreceived as (
        update dbos_async.messages set received_at = null
        where id = any (array(
            select message_id from calls
            where (workflow_id, branch, number) in (select workflow_id, branch, number from undone)))
    )
    select n from calls
    """,
)
