-- name: TELL_STEPS (id text, steps json)
with told as (
    update dbos_async.executors set running_steps = json_build_object('at', clock_timestamp(), 'steps', :steps)
    where id = :id
)
select :n as n
