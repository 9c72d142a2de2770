-- What live executors know.

-- name: KNOWN (name text, application_version text)
select c.n, :some_live_executor_knows as is_known
from :rows
cross join lateral (select c.name, c.application_version) as w
