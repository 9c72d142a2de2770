alter table dbos_async.stream_entries
    add column batch json[], add column count integer, add column nth integer, add column rewinds_to integer,
    add column taken_back_by integer, add column copy_of integer, add column trimmed integer;
comment on table dbos_async.stream_entries is
    'One value of a stream, or several. Offsets are 0, 1, 2 … without a gap, and a row stands at its first. A row that closes has no value and stands after the last one. act is its place among what one run (attempt) said and wrote, as for events.';
comment on column dbos_async.stream_entries.batch is
    'The values of a row that has several, in order; value is null then.';
comment on column dbos_async.stream_entries.count is
    'How many values batch has. Null in a row with a value of its own.';
comment on column dbos_async.stream_entries.nth is
    'Of a row that a stream writer wrote: how many values it had written before, in the attempt that counts. Null in other rows.';
comment on column dbos_async.stream_entries.rewinds_to is
    'This row has no value: what stands from that offset up to here is taken back. What others had written in between follows as copies.';
comment on column dbos_async.stream_entries.taken_back_by is
    'The offset of the row that takes this one back. Null while the row stands.';
comment on column dbos_async.stream_entries.copy_of is
    'The offset that the first value of this copy was written at. Null in rows that are no copies.';
comment on column dbos_async.stream_entries.trimmed is
    'The values below this offset are gone; it is the last row that has, or had, one of them. Null in other rows.';
create index stream_entries_writers on dbos_async.stream_entries (workflow_id, key_digest, step, "offset")
    where nth is not null;
