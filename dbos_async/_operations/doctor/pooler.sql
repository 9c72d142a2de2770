-- Whether a pooler lets the settings of connections pass.

-- name: SEE_OWN_SETTINGS (names json)
select :n as n, name, current_setting(name) as value
from pg_settings where name in (select json_array_elements_text(:names))
