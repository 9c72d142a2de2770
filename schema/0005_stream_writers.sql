alter table dbos_async.stream_entries
    add column batch json[], add column count integer, add column nth integer, add column rewinds_to integer,
    add column taken_back_by integer, add column copy_of integer, add column trimmed integer;
comment on table dbos_async.stream_entries is
    'One value of a stream, or several. Offsets are 0, 1, 2 … without a gap, and a row stands at its first. A row that closes has no value and stands after the last one. act is its place among what one run (attempt) said and wrote, as for events.';
comment on column dbos_async.stream_entries.batch is
    'The values of a row that has several, in order; value is null then.';
comment on column dbos_async.stream_entries.count is
    'How many values batch has, or how many offsets a row without values stands for. Null in a row with a value of its own.';
comment on column dbos_async.stream_entries.nth is
    'Of a row that a stream writer wrote: how many values it had written before, in the attempt that counts. Null in other rows.';
comment on column dbos_async.stream_entries.rewinds_to is
    'This row has no value: what stands from that offset up to here is taken back. What others had written in between follows as copies.';
comment on column dbos_async.stream_entries.taken_back_by is
    'The offset of the row that takes this one back. Null while the row stands.';
comment on column dbos_async.stream_entries.copy_of is
    'The offset that the first value of this copy was written at. Null in rows that are no copies.';
comment on column dbos_async.stream_entries.trimmed is
    'The row has lost its values, which were below this offset; in the first row of a stream: all values below it are gone. Besides that one there stay the last row, and the first and the last of a stream writer that may go on. Null in other rows.';
create index stream_entries_writers on dbos_async.stream_entries (workflow_id, key_digest, step, "offset")
    where nth is not null;

create function dbos_async.trim_stream(
    target_id text, stream text, wanted integer, most integer, caller_id text, caller_attempt bigint, caller_number integer
) returns table (is_known boolean, is_owner boolean, first_there integer, is_over boolean) language plpgsql as $$
declare
    digest_of_stream bytea := dbos_async.digest(stream);
    stop integer;
    begin_at integer;
    upto integer;
    last record;
    kept integer[];
begin
    is_known := true;
    is_owner := true;
    is_over := true;
    -- A deletion of the workflow comes before this or after it.
    perform from dbos_async.workflows where id = target_id for key share;
    if not found then
        is_known := false;
        return next;
        return;
    end if;
    -- A row that closes has no value to trim.
    select least(wanted, e."offset" + case when e.closes then 0 else coalesce(e.count, 1) end) into stop
    from dbos_async.stream_entries as e where e.workflow_id = target_id and e.key_digest = digest_of_stream
    order by e."offset" desc limit 1;
    -- Two trims meet at the first row. Each statement of a function looks anew, so the second one sees what the first has done.
    select coalesce(e.trimmed, 0) into first_there from dbos_async.stream_entries as e
    where e.workflow_id = target_id and e.key_digest = digest_of_stream and e."offset" = 0 for update;
    if not found then
        first_there := 0;
    end if;
    if coalesce(stop, 0) <= first_there then
        return next;
        return;
    end if;
    select coalesce(max(e."offset"), 0) into begin_at from dbos_async.stream_entries as e
    where e.workflow_id = target_id and e.key_digest = digest_of_stream and e."offset" < first_there;
    -- In the order in which a rewind locks rows.
    perform from dbos_async.stream_entries as e
    where e.workflow_id = target_id and e.key_digest = digest_of_stream and e."offset" >= begin_at and e."offset" < stop
    order by e."offset" limit most + 1 for update;
    select e."offset" into upto from dbos_async.stream_entries as e
    where e.workflow_id = target_id and e.key_digest = digest_of_stream and e."offset" >= first_there and e."offset" < stop
    order by e."offset" offset most limit 1;
    is_over := upto is null;
    upto := coalesce(upto, stop);
    if not is_over and caller_number is not null then
        -- The step is not recorded yet, so its row does not decide.
        perform from dbos_async.workflows where id = caller_id and attempt = caller_attempt and status = 'PENDING' for share;
        if not found then
            is_owner := false;
            return next;
            return;
        end if;
    end if;
    select * into last from dbos_async.stream_entries as e
    where e.workflow_id = target_id and e.key_digest = digest_of_stream and e."offset" < upto order by e."offset" desc limit 1;
    if last."offset" + coalesce(last.count, 1) > upto then
        insert into dbos_async.stream_entries
            (workflow_id, key, "offset", batch, count, nth, copy_of, step, attempt, act, written_at, taken_back_by)
        values
            (target_id, stream, upto, last.batch[upto - last."offset" + 1 :], last.count - (upto - last."offset"),
             last.nth + (upto - last."offset"), last.copy_of + (upto - last."offset"),
             last.step, last.attempt, last.act, last.written_at, last.taken_back_by);
    end if;
    kept := array(
        select e."offset" from dbos_async.stream_entries as e
        where e.workflow_id = target_id and e.key_digest = digest_of_stream and e."offset" >= begin_at and e."offset" < upto
          and (e."offset" = 0 or e."offset" = last."offset" or (
                e.nth is not null and e.taken_back_by is null
                and (not exists (
                    select from dbos_async.stream_entries as o
                    where o.workflow_id = target_id and o.key_digest = digest_of_stream and o.step = e.step and o.nth is not null
                      and o.taken_back_by is null and o."offset" > e."offset")
                or not exists (
                    select from dbos_async.stream_entries as o
                    where o.workflow_id = target_id and o.key_digest = digest_of_stream and o.step = e.step and o.nth is not null
                      and o.taken_back_by is null and o."offset" < e."offset"))
                and not exists (
                    select from dbos_async.steps as s
                    where s.workflow_id = target_id and s.branch = coalesce(substring(e.step from '^(.*)[.]'), '')
                      and s.number = substring(e.step from '[0-9]+$')::integer
                      and s.completed_at is not null and s.verb <> 'stream_writer'))));
    -- What a writer that goes on had written last is now another row.
    delete from dbos_async.stream_entries as e
    where e.workflow_id = target_id and e.key_digest = digest_of_stream and e."offset" > 0 and e."offset" < begin_at
      and e.nth is not null and e.taken_back_by is null
      and e.step = any (array(
            select distinct w.step from dbos_async.stream_entries as w
            where w.workflow_id = target_id and w.key_digest = digest_of_stream and w."offset" >= begin_at and w."offset" < upto
              and w."offset" = any (kept) and w.nth is not null
              and w.taken_back_by is null))
      and exists (
                    select from dbos_async.stream_entries as o
                    where o.workflow_id = target_id and o.key_digest = digest_of_stream and o.step = e.step and o.nth is not null
                      and o.taken_back_by is null and o."offset" < e."offset");
    delete from dbos_async.stream_entries as e
    where e.workflow_id = target_id and e.key_digest = digest_of_stream and e."offset" >= begin_at and e."offset" < upto
      and e."offset" <> all (kept);
    update dbos_async.stream_entries as e
    set value = null, batch = null, count = least(coalesce(e.count, 1), upto - e."offset"), rewinds_to = null, copy_of = null,
        nth = case when e.taken_back_by is null then e.nth end, taken_back_by = null,
        trimmed = least(e."offset" + coalesce(e.count, 1), upto)
    where e.workflow_id = target_id and e.key_digest = digest_of_stream and e."offset" >= begin_at and e."offset" < upto
      and e."offset" = any (kept) and e.trimmed is null;
    update dbos_async.stream_entries as e set trimmed = upto
    where e.workflow_id = target_id and e.key_digest = digest_of_stream and e."offset" = 0;
    first_there := upto;
    return next;
end
$$;
comment on function dbos_async.trim_stream is
    'Removes the values of a stream below an offset, so many rows at most. Tells the first offset that is there then, and whether all is done. caller_number is the number of the step that calls; a call that leaves something to do holds its workflow, if it still owns that.';

create function dbos_async.repeat_if(is_disturbed boolean) returns void strict language plpgsql as $$
begin
    if is_disturbed then
        raise unique_violation using message = 'rows that this statement has read are not there any more';
    end if;
end
$$;
comment on function dbos_async.repeat_if is
    'Undoes the statement, which is then repeated, as when two want the same row.';
