-- name: UNDER_WAY (id text)
-- The status of the workflow, and the transactions that write at this moment. A statement takes its locks before its snapshot, so
-- a transaction that is not in this list sees at least what this statement saw.
select c.n, w.status, w.attempt,
       array(select distinct virtualtransaction from :writing) as writers
from :rows
cross join lateral (select status, attempt from dbos_async.workflows where id = c.id limit 1) as w

-- name: WRITING
-- The transactions that write at this moment.
select c.n, array(select distinct virtualtransaction from :writing) as writers
from :numbers

-- name: DELETE (id text, attempt bigint, digest bytea)
with deleted as materialized (
    select c.n, c.digest from :rows
    where dbos_async.delete_workflow(c.id, c.attempt)
),
announced as (:tell_waiters(deleted))
select n from deleted, announced
