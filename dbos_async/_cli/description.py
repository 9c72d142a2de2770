"""A workflow for people: how it stands, what it waits for, its timeline, and what it has said and not yet heard."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from dbos_async._cli.output import status_text
from dbos_async._cli.step_words import legend
from dbos_async._cli.texts import age, brief_json, duration, error_line, fitted, safe
from dbos_async._cli.timeline import timeline, traceback_block, value_block
from dbos_async._logs import counted
from dbos_async._operations.description import PresentWait, WorkflowDescription
from dbos_async._workflows.status import PARKED
from dbos_async.envelope import Message

WAIT_BAR = 20


def described(found: WorkflowDescription, width: int, *, steps: int, payloads: bool = False) -> RenderableType:
    """All of it. ``steps`` is how many steps were asked for."""
    parts: list[RenderableType] = [*_header(found, width, payloads=payloads), *_waits(found, width)]
    if found.steps:
        parts += [Text(), _steps_head(found, steps), timeline(found, width, payloads=payloads)]
        if width >= 100 and not payloads:
            parts.append(legend())
    parts += [*_messages(found, width), *_events(found, width), *_streams(found, width), *_children(found, width)]
    return Group(*parts)


def _header(found: WorkflowDescription, width: int, *, payloads: bool) -> Iterable[RenderableType]:
    one, now = found.status, found.now
    yield Text.assemble((safe(one.name), "bold"), "  ", safe(one.workflow_id), overflow="fold")
    facts = [status_text(one.status, unclaimable=one.unclaimable)]
    if one.ended_at is not None:
        facts.append(Text(f"after {duration((one.ended_at - one.created_at).total_seconds())}"))
    facts.append(Text(f"created {age(one.created_at, now)} ago, {one.created_at:%Y-%m-%d %H:%M:%S} UTC"))
    yield Text(" · ").join(facts)
    if more := list(_facts(found)):
        yield Text(" · ".join(more), "dim", overflow="fold")
    if one.input is not None and _call(one.input) != []:
        yield Text.assemble(("input    ", "dim"), brief_json(_call(one.input), max(width - 10, 20)))
        if payloads:
            yield value_block(_call(one.input))
    if one.status == "SUCCESS":
        yield Text.assemble(("returned ", "dim"), (brief_json(one.output, max(width - 10, 20)), "green"))
        if payloads and one.output is not None:
            yield value_block(one.output)
    elif one.error is not None:
        what = "parked   " if one.status in PARKED else "failed   "
        yield Text.assemble((what, "dim"), (error_line(one.error)[: 6 * width], "red"), overflow="fold")
        if payloads:
            yield traceback_block(one.error)
    if one.status in (*PARKED, "CANCELLED"):
        # One that has cleaned up does only that again.
        act = "fork" if one.status == "CANCELLED" and one.cancel_asked_at is not None else "resume"
        yield Text(
            f"         it goes on after: dbos-async workflows {act} {_quoted(one.workflow_id)}", "dim", overflow="fold"
        )


def _facts(found: WorkflowDescription) -> Iterable[str]:
    one = found.status
    if one.executor_id is not None:
        yield f"executor {safe(one.executor_id.rpartition(':')[0] or one.executor_id)}"
    if one.application_version is not None:
        yield f"version {safe(one.application_version)}"
    if one.patches:
        yield f"patched {', '.join(map(safe, one.patches))}"
    if one.generation > 1:
        yield f"generation {one.generation}"
    if one.attempt > 1:
        yield f"attempt {one.attempt}"
    if one.recoveries:
        yield f"taken over {counted(one.recoveries, 'time')} in a row"
    if one.parent_id is not None:
        yield f"child of {safe(one.parent_id)}"
    if one.forked_from is not None:
        yield f"fork of {safe(one.forked_from)}"
    if one.deadline is not None and one.ended_at is None:
        left = duration(max((one.deadline - found.now).total_seconds(), 0))
        yield f"cleans up for at most {left}" if one.cancel_asked_at is not None else f"is cancelled in {left}"


def _waits(found: WorkflowDescription, width: int) -> Iterable[RenderableType]:
    one = found.status
    if one.status == "DELAYED" and one.due_at is not None:
        yield Text(f"\nstarts in {duration(max((one.due_at - found.now).total_seconds(), 0))}", "bold blue")
    if one.status != "PENDING":
        return
    yield Text()
    if one.unclaimable:
        yield Text(
            "no live executor can run it: none knows its name, or none has its version", "bold red", overflow="fold"
        )
    elif one.executor_id is None:
        yield Text("waits for an executor", "bold cyan")
    elif not found.executor_is_live:
        yield Text("its executor has gone, and no live one has taken it over yet", "bold red", overflow="fold")
    elif not found.waits:
        yield Text("runs", "bold cyan")
    for wait in found.waits:
        yield _wait(wait, found.now, width)
        if wait.last_error is not None:
            yield Text(f"  after {safe(wait.last_error)[: 3 * width]}", "red", overflow="fold")


def _wait(wait: PresentWait, now: datetime, width: int) -> Text:
    waited = max((now - wait.since).total_seconds(), 0)
    verb = "runs" if wait.verb in ("step", "transaction") and wait.until is None else "waits for"
    what = wait.what.removeprefix("the end of ") if wait.verb in ("step", "transaction") else wait.what
    text = Text(f"{verb} {safe(what)}", "bold cyan", overflow="fold")
    if wait.until is None:
        text.append(f" · for {duration(waited)}" + ("" if verb == "runs" else ", without a time limit"), "not bold")
        return text
    left, whole = (wait.until - now).total_seconds(), (wait.until - wait.since).total_seconds()
    text.append(f" · {duration(max(left, 0))} of {duration(max(whole, 0))} left", "not bold")
    if width - text.cell_len >= WAIT_BAR + 2 and whole > 0:
        done = min(max(round(WAIT_BAR * waited / whole), 0), WAIT_BAR)
        text.append("  " + "━" * done, "not bold")
        text.append("─" * (WAIT_BAR - done), "dim not bold")
    return text


def _steps_head(found: WorkflowDescription, asked: int) -> Text:
    head = Text("steps", "bold")
    if found.cursor is not None:
        head.append(
            f"  the last {len(found.steps)} of {found.step_count:,}; --steps {min(10 * asked, found.step_count)} shows more",
            "not bold dim",
        )
    else:
        head.append(f"  {found.step_count:,}", "not bold dim")
    return head


def _messages(found: WorkflowDescription, width: int) -> Iterable[RenderableType]:
    counts = [
        (found.waiting, "waits", "wait"),
        (found.rejected, "was rejected", "were rejected"),
        (found.delayed, "is delayed", "are delayed"),
    ]
    told = [f"{count} {one if count == 1 else several}" for count, one, several in counts if count]
    if not told:
        return
    yield Text.assemble(("\nmessages", "bold"), (f"  {', '.join(told)}", "dim"))
    for message in found.messages:
        yield _message(message, found.now, width)
        if message.rejected is not None:
            yield Text(f"    {safe(message.rejected)[: 2 * width]}", "red", overflow="fold")
            yield Text(f"    dbos-async messages redeliver {message.id}", "dim", overflow="fold")


def _message(message: Message, now: datetime, width: int) -> Text:
    sender = "outside" if message.sender_id is None else message.sender_id
    mark, style = ("✗", "red") if message.rejected is not None else ("←", "cyan")
    text = Text.assemble(
        f"  {mark} ", (fitted(message.topic or "(no topic)", max(width // 4, 12)), style),
        (fitted(f" from {sender}", max(width // 3, 12)), "dim"), (f", {age(message.sent_at, now)} ago  ", "dim"),
    )  # fmt: skip
    return _with_value(text, message.payload, width)


def _events(found: WorkflowDescription, width: int) -> Iterable[RenderableType]:
    if found.events:
        yield Text("\nevents", "bold")
    for event in found.events:
        versions = f" ({event.versions:,} values)" if event.versions > 1 else ""
        text = Text.assemble(
            ("  ◆ ", "magenta"), (fitted(event.key, max(width // 3, 12)), "magenta"),
            (f"{versions}, {age(event.set_at, found.now)} ago  ", "dim"),
        )  # fmt: skip
        yield _with_value(text, "(large)" if event.is_cut else event.value, width)


def _streams(found: WorkflowDescription, width: int) -> Iterable[RenderableType]:
    if found.streams:
        yield Text("\nstreams", "bold")
    for stream in found.streams:
        state = "closed" if stream.is_closed else "open" if found.status.ended_at is None else "ended"
        yield Text.assemble(
            ("  ≡ ", "blue"), (fitted(stream.key, max(width // 2, 12)), "blue"),
            (f"  {counted(stream.end, 'value')}, {state}, written {age(stream.written_at, found.now)} ago", "dim"), overflow="fold",
        )  # fmt: skip


def _children(found: WorkflowDescription, width: int) -> Iterable[RenderableType]:
    if found.children:
        shown = "" if found.children_count <= len(found.children) else f", the newest {len(found.children)}"
        yield Text.assemble(("\nchildren", "bold"), (f"  {found.children_count:,}{shown}", "dim"))
    for child in found.children:
        text = Text("  ↳ ", overflow="fold")
        text.append_text(status_text(child.status, unclaimable=child.unclaimable))
        text.append(f"  {fitted(child.name, max(width // 4, 12))}  ")
        text.append(safe(child.workflow_id), "dim")
        yield text


def _with_value(text: Text, value: Any, width: int) -> Text:
    room = width - text.cell_len
    if room >= 8:
        text.append(brief_json(value, room))
    return text


def _call(value: Any) -> Any:
    """The arguments of a workflow as they were given."""
    if isinstance(value, dict) and set(value) <= {"args", "kwargs"}:
        args, kwargs = value.get("args") or [], value.get("kwargs") or {}
        return kwargs if kwargs and not args else args if not kwargs else value
    return value


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text) if text.isprintable() else safe(repr(text))
