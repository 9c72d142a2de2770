"""What the tables, the ledger and the driver know of a wave."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.plan_types import Instruction, Plan, Program, walk

PREPARE = """
    create schema if not exists chaos;
    create table if not exists chaos.ledger (
        entry text primary key, workflow_id text not null, step text not null, tag text not null, executor text not null,
        written_at timestamptz not null default clock_timestamp());
    create index if not exists ledger_workflow on chaos.ledger (workflow_id);
    create table if not exists chaos.notes (
        id bigint generated always as identity, workflow_id text not null, what text not null, detail text);
    create index if not exists notes_workflow on chaos.notes (workflow_id);

    create or replace function chaos.note_workflow() returns trigger language plpgsql as $$ begin
        if new.status <> old.status then
            insert into chaos.notes (workflow_id, what, detail) values (new.id, 'status', new.status);
        end if;
        if new.attempt < old.attempt then
            insert into chaos.notes (workflow_id, what) values (new.id, 'W3: its fence went back');
        end if;
        if new.owner is not null and new.owner is distinct from old.owner and new.attempt = old.attempt then
            insert into chaos.notes (workflow_id, what) values (new.id, 'W3: it was claimed without moving the fence');
        end if;
        if old.status in ('SUCCESS', 'ERROR') then
            insert into chaos.notes (workflow_id, what) values (new.id, 'W3: it was changed after its end');
        end if;
        return null;
    end $$;
    create or replace trigger chaos after update on dbos_async.workflows
        for each row execute function chaos.note_workflow();

    create or replace function chaos.note_step() returns trigger language plpgsql as $$ begin
        -- A receive that was cancelled after it had taken its message gives that back.
        if tg_op = 'UPDATE' and old.message_id is not null and new.message_id is null and new.completed_at is null then
            insert into chaos.notes (workflow_id, what, detail)
            values (old.workflow_id, 'M4: a receive gave its message back', old.branch || '.' || old.number);
        -- The place at which a result is received may be recorded later than the result. A sleep records later that it is over.
        elsif tg_op = 'DELETE' or (old.completed_at is not null and
                (old.verb, old.key, case when old.verb <> 'sleep' then old.output::text end, old.error::text, old.completed_at)
                is distinct from
                (new.verb, new.key, case when new.verb <> 'sleep' then new.output::text end, new.error::text,
                 new.completed_at)) then
            insert into chaos.notes (workflow_id, what, detail)
            values (old.workflow_id, 'W2: a recorded step was changed', old.branch || '.' || old.number);
        end if;
        return null;
    end $$;
    create or replace trigger chaos after update or delete on dbos_async.steps
        for each row execute function chaos.note_step();

    create table if not exists chaos.delays (
        id uuid primary key, destination_id text not null, due_at timestamptz not null, seq bigint not null,
        noted_at timestamptz not null default clock_timestamp());
    create or replace function chaos.note_delay() returns trigger language plpgsql security definer as $$ begin
        insert into chaos.delays (id, destination_id, due_at, seq) values (new.id, new.destination_id, new.due_at, new.seq)
        on conflict do nothing;
        return null;
    end $$;
    create or replace trigger chaos after insert on dbos_async.delayed_messages
        for each row execute function chaos.note_delay();

    create or replace function chaos.note_message() returns trigger language plpgsql as $$ begin
        if tg_op = 'UPDATE' and old.received_at is not null and old.answered_at is null and new.answered_at is not null
           and (new.seq, new.payload::text, new.received_at) is not distinct from (old.seq, old.payload::text, old.received_at) then
            null;  -- A question is answered.
        elsif tg_op = 'UPDATE' and old.answered_at is not null then
            insert into chaos.notes (workflow_id, what, detail)
            values (old.destination_id, 'C2: an answered question was changed', old.id::text);
        elsif tg_op = 'UPDATE' and old.received_at is not null and new.received_at is null then
            insert into chaos.notes (workflow_id, what, detail)
            values (old.destination_id, 'M4: a received message was given back', old.id::text);
        elsif tg_op = 'DELETE' or old.received_at is not null then
            insert into chaos.notes (workflow_id, what, detail)
            values (old.destination_id, 'M5: a received message was changed', old.id::text);
        end if;
        return null;
    end $$;
    create or replace trigger chaos after update or delete on dbos_async.messages
        for each row execute function chaos.note_message();

    create or replace function chaos.note_immutable() returns trigger language plpgsql as $$ begin
        insert into chaos.notes (workflow_id, what)
        values (old.workflow_id, 'E2: a value of its events was changed in place');
        return null;
    end $$;
    create or replace function chaos.note_entry() returns trigger language plpgsql as $$ begin
        if tg_op = 'DELETE' or old.taken_back_by is not null
           or to_jsonb(old) - 'taken_back_by' <> to_jsonb(new) - 'taken_back_by' then
            insert into chaos.notes (workflow_id, what)
            values (old.workflow_id, 'S1: a row of its streams was changed in place, and not only taken back');
        end if;
        return null;
    end $$;
    create or replace trigger chaos after update or delete on dbos_async.stream_entries
        for each row execute function chaos.note_entry();
    create or replace trigger chaos after update or delete on dbos_async.events
        for each row execute function chaos.note_immutable();
"""

WORKFLOWS = """
    select id, name, status, output::text, parent_id, attempt, recoveries, due_at from dbos_async.workflows
    where id = any ($1) or parent_id = any ($1)
"""
STEPS = """
    select workflow_id, branch, number, verb, key, output::text, error::text, message_id, deadline, completed_at
    from dbos_async.steps where workflow_id = any ($1)
"""
MESSAGES = """
    select m.id, m.seq, m.destination_id, nullif(topic, '') as topic, payload::text, idempotency_key, received_at,
           answer::text, answer_error::text, d.due_at, d.seq as due_seq, d.noted_at
    from dbos_async.messages as m left join chaos.delays as d on d.id = m.id
    where m.destination_id = any ($1) order by m.seq
"""
EVENTS = "select workflow_id, key, value::text, seq from dbos_async.events where workflow_id = any ($1) order by seq"
ENTRIES = """
    select workflow_id, key, "offset", value::text, closes from dbos_async.stream_entries
    where workflow_id = any ($1) order by workflow_id, key, "offset"
"""
LEDGER = "select entry, workflow_id, step, tag from chaos.ledger where workflow_id = any ($1)"
NOTES = "select workflow_id, what, detail from chaos.notes where workflow_id = any ($1) order by id"


@dataclass
class Watched:
    """What the driver saw from outside while a wave ran."""

    events: dict[str, list[int]] = field(default_factory=dict)
    streams: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    sent: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By idempotency key: when a send was first called, and when it returned."""
    answers: list[tuple[Instruction, list[Any]]] = field(default_factory=list)
    """Each question from outside, and the answers to it and its repetitions."""
    versions: dict[str, list[Any]] = field(default_factory=dict)
    """The values and versions of events that were watched."""
    merged: dict[tuple[tuple[str, str], ...], list[Any]] = field(default_factory=dict)
    """What was read of several streams together: the workflow, the key, the offset and the value of each part."""
    clock_moved: bool = False
    """Whether the server's clock moved meanwhile."""


@dataclass
class Tally:
    """What happened in all."""

    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    workflows: int = 0
    programs: int = 0
    takeovers: int = 0
    waves: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    """What came out of checking a wave."""

    violations: list[str]
    operations: Counter[str]
    workflows: int
    takeovers: int


@dataclass
class Facts:
    workflows: dict[str, Any]
    steps: dict[str, list[Any]]
    messages: dict[str, list[Any]]
    events: dict[str, list[Any]]
    entries: dict[str, list[Any]]
    ledger: dict[str, list[Any]]
    notes: dict[str, list[Any]]


def by(rows: Iterable[Any], column: str) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return groups


class Checks:
    """The facts of a wave, what its workflows received, and the violations that were found."""

    def __init__(self, plan: Plan, watched: Watched, facts: Facts) -> None:
        self.plan, self.watched, self.facts = plan, watched, facts
        self.violations: list[str] = []
        self.operations: Counter[str] = Counter()
        self.programs = dict(plan.programs)
        self.outputs: dict[str, list[Any]] = {}
        self.received: defaultdict[tuple[str, str | None], list[Any]] = defaultdict(list)
        """What each workflow reported that it received, by topic, in order."""

    def broken(self, promise: str, sentence: str) -> None:
        self.violations.append(f"{promise}: {sentence}")


def blocks_of(tokens: Iterable[str]) -> Iterator[str]:
    before = ""
    for token in tokens:
        if token and token != before:
            yield token
            before = token


def by_sender(messages: list[Any]) -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for sender, number in messages:
        found[sender].append(number)
    return dict(found)


def length_of(program: Program, key: str) -> int:
    return max((i["to"] for i in walk(program) if i["do"] == "write" and i["key"] == key), default=0)


def verbs_of(program: Program) -> Counter[str]:
    verbs: Counter[str] = Counter()
    for instruction in walk(program):
        match instruction["do"]:
            case "step":
                verbs["step"] += 1
            case "send":
                verbs["send"] += instruction.get("times", 1)
            case "bulk" | "send_astray":
                verbs["send_bulk"] += 1
            case "set":
                verbs["set_event"] += 1
            case "get":
                verbs["get_event"] += 1
            case "write":
                verbs["write_stream"] += instruction["to"] - instruction["from"]
            case "close":
                verbs["close_stream"] += 1 + instruction["again"]
                verbs["write_stream"] += instruction["again"]
            case "start":
                verbs["start_workflow"] += 1
            case "result":
                verbs["get_result"] += 1
            case "sleep":
                verbs["sleep"] += 1
            case "first":
                verbs["step"] += 1
            case "started":
                verbs["step"] += 1
                verbs["sleep"] += instruction["cancels"]
            case "ask":
                verbs["ask"] += instruction["times"]
            case "desk":
                hows = instruction["hows"]
                verbs["step"] += hows.get("step", 0)
                verbs["answer"] += hows.get("answer", 0) + 2 * hows.get("twice", 0)
                verbs["refuse"] += hows.get("refuse", 0)
            case "later":
                verbs["send_bulk"] += 1
            case "send_start":
                verbs["start_and_send"] += 1
            case "moments":
                verbs.update(("now", "now", "random", "uuid"))
    return verbs
