-- name: FINISH (id text, attempt bigint, status text, output json, error json, digest bytea)
with calls as materialized (
    select * from :rows
),
owned as materialized (
    select c.*, w.name, w.start_id
    from (select * from calls order by id) as c
    cross join lateral (
        select name, start_id, attempt, status from dbos_async.workflows where id = c.id for no key update
    ) as w
    where w.attempt = c.attempt and w.status = 'PENDING'
),
ended as (
    -- After the end the owner stays, so that it can be seen: nobody claims what is not PENDING.
    -- Always an update, since the row is there and locked. As an insert it finds its row by the primary key, whatever the plan.
    insert into dbos_async.workflows as w (id, name, input, start_id, attempt, status, output, error, ended_at)
    select id, name, '{}', start_id, attempt, status, output, error,
           case when status in ('SUCCESS', 'ERROR', 'CANCELLED') then clock_timestamp() end
    from owned
    on conflict (id) do update
        set status = excluded.status, output = excluded.output, error = excluded.error,
            ended_at = excluded.ended_at, owner = case when excluded.ended_at is not null then w.owner end
),
news as (
    select n, digest, case
        when status in ('SUCCESS', 'ERROR', 'CANCELLED') and :is_news(texts)
        then 'r' || attempt || ':' || length(status) || ',' || coalesce(length(output::text)::text, '-') || ','
             || coalesce(length(error::text)::text, '-') || ':' || status || texts end as news
    from (select *, concat(output::text, error::text) as texts from owned) as owned
),
announced as (:tell_news(news))
select n, n in (select n from owned) as ended from calls, announced
