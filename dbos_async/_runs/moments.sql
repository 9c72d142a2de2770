-- The time, as every deadline sees it.

-- name: NOW ()
select n, clock_timestamp() as now from :numbers
