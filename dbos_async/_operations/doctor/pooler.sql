-- Whether a pooler is in between: which process of the server executes this, and how the session is set.

-- name: SEE_BACKEND
select :n as n, pg_backend_pid() as pid

-- name: SEE_OWN_SETTINGS (names json)
select :n as n, name, current_setting(name) as value
from pg_settings where name in (select json_array_elements_text(:names))

-- name: SEE_ROLE
select :n as n, quote_ident(session_user) as role, quote_ident(current_database()) as database
