"""What a step says in a timeline: a mark, its words, the other side, and its value."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.text import Text

from dbos_async._cli.texts import brief_json, duration, fitted, safe
from dbos_async._operations.description import DescribedStep

SENDS: Final = ("send", "send_bulk", "ask", "answer", "refuse")
RECEIVES: Final = ("recv", "recv_envelope", "messages", "wait_first")
WRITES: Final = ("write_stream", "write_stream_many", "stream_writer")
READS: Final = ("read_stream", "read_stream_entries", "read_streams")
IN_A_ROW: Final = 3
"""So many steps of one task in a row that write and read streams are shown as one line."""

MARKS: Final = {
    "step": "■", "transaction": "■", "send": "→", "send_bulk": "→", "answer": "→", "refuse": "→", "recv": "←", "recv_envelope": "←",
    "messages": "←", "wait_first": "←", "ask": "⇄", "get_answer": "⇄", "start_workflow": "↳", "get_result": "↲", "set_event": "◆",
    "get_event": "◇", "watch_event": "◇", "write_stream": "≡", "write_stream_many": "≡", "stream_writer": "≡", "close_stream": "≡",
    "read_stream": "≣", "read_stream_entries": "≣", "read_streams": "≣", "sleep": "z", "sleep_until": "z",
}  # fmt: skip
STYLES: Final = {
    "→": "yellow",
    "←": "cyan",
    "⇄": "cyan",
    "■": "green",
    "◆": "magenta",
    "◇": "magenta",
    "≡": "blue",
    "≣": "blue",
}
MARKS_IN_WORDS: Final = (
    ("■", "step"), ("→", "sent"), ("←", "received"), ("⇄", "asked"), ("◆", "event set"), ("≡", "stream written"), ("↳", "child")
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One line of the timeline: a step, or several writes to one stream in a row."""

    steps: Sequence[DescribedStep]

    @property
    def first(self) -> DescribedStep:
        """The step, or the first of them."""
        return self.steps[0]

    @property
    def number(self) -> str:
        """The path of the step, or those of the first and the last."""
        last = "" if len(self.steps) == 1 else f"–{self.steps[-1].step.rpartition('.')[2]}"  # noqa: RUF001
        return f"{self.first.step}{last}"


def lines_of(steps: Sequence[DescribedStep]) -> list[Line]:
    """The lines of these steps."""
    runs: list[list[DescribedStep]] = []
    for step in steps:
        if runs and _is_traffic(step) and _is_traffic(runs[-1][-1]) and _branch(step) == _branch(runs[-1][-1]):
            runs[-1].append(step)
        else:
            runs.append([step])
    return [line for run in runs for line in ([Line(run)] if len(run) >= IN_A_ROW else [Line([step]) for step in run])]


def _is_traffic(step: DescribedStep) -> bool:
    return step.verb in (*WRITES, *READS) and step.error is None and step.completed_at is not None


def _branch(step: DescribedStep) -> str:
    return step.step.rpartition(".")[0]


def mark_of(step: DescribedStep) -> str:
    """The mark of a step."""
    return "✗" if step.error is not None else MARKS.get(step.verb, "·")


def words_of(line: Line, cells: int) -> Text:
    """The line in words, as far as it fits; what others chose is cut before what we say."""
    step = line.first
    mark = mark_of(step)
    style = "bold red" if mark == "✗" else STYLES.get(mark, "")
    name, peer = _name_and_peer(step) if len(line.steps) == 1 else _traffic(line.steps)
    text = Text.assemble(
        (f"{mark} ", style), (fitted(name, max(cells * 2 // 3, 16)), style if step.verb != "step" else "")
    )
    if peer:
        text.append(fitted(peer, max(cells // 2, 12)), "dim")
    value = _value(step) if len(line.steps) == 1 else None
    if value is not None:
        room = cells - text.cell_len - 2
        if room >= 4:
            text.append("  ")
            text.append(fitted(value, room), "" if step.verb in RECEIVES else "dim")
    text.truncate(cells, overflow="ellipsis")
    return text


def _name_and_peer(step: DescribedStep) -> tuple[str, str]:
    """What it did, and with whom."""
    verb, key, peer = step.verb, step.key, step.peer_id
    if verb in ("step", "transaction"):
        return key, ""
    if verb in ("send", "ask") and peer is not None:
        return step.topic or "(no topic)", f" to {peer}"
    if verb in ("recv", "recv_envelope", "messages"):
        return step.topic or key or "(no topic)", _sender(step)
    if verb == "wait_first":
        return step.topic or _winner(step) or f"first of {_listed(key)}", _sender(step)
    if verb == "start_workflow":
        return f"start {key}", f" as {peer}" if peer else ""
    if verb == "get_result":
        return f"result of {key}", ""
    if verb in ("set_event", "get_event", "watch_event", *WRITES):
        return key, ""
    if verb == "read_streams":
        return f"read {max(key.count('],[') + 1, 1)} streams", ""
    if verb in READS:
        return f"read {key}", ""
    return f"{verb} {key}".rstrip(), f" {peer}" if peer and peer not in key else ""


def _traffic(steps: Sequence[DescribedStep]) -> tuple[str, str]:
    """What was written and read, and how often."""
    names = Counter(_name_and_peer(step)[0] for step in steps)
    if len(names) == 1:
        return next(iter(names)), f" × {len(steps)}"  # noqa: RUF001
    return ", ".join(f"{name} × {count}" for name, count in names.most_common()), ""  # noqa: RUF001


def _sender(step: DescribedStep) -> str:
    if step.message_id is None:
        return ""
    return f" from {step.peer_id}" if step.peer_id is not None else " from outside"


def _winner(step: DescribedStep) -> str | None:
    """Which of its waits a `wait_first` has recorded."""
    try:
        return str(json.loads(step.key)[step.output["index"]])
    except (ValueError, LookupError, TypeError):
        return None


def _listed(key: str) -> str:
    return key.strip("[]").replace('"', "").replace(",", ", ")


def _value(step: DescribedStep) -> str | None:
    if step.is_cut:
        return "(large)"
    if step.completed_at is None:
        return _under_way(step)
    if step.error is not None:
        return None
    if step.verb in ("recv", "recv_envelope", "wait_first", "messages") and step.output is None:
        return "nothing in time" if step.deadline is not None else None
    value = received(step)
    if value is None or step.verb in (
        *WRITES,
        *READS,
        "set_event",
        "send",
        "send_bulk",
        "start_workflow",
        "sleep",
        "close_stream",
        "answer",
        "refuse",
    ):
        return None
    return ("" if step.verb in RECEIVES else "= ") + brief_json(value, 400)


def received(step: DescribedStep) -> Any:
    """The value of a step as people want to see it: the payload of an envelope, and what the winner of a `wait_first` brought."""
    value = step.output
    if step.verb == "wait_first" and isinstance(value, dict) and "value" in value:
        value = value["value"]
    if isinstance(value, dict) and "payload" in value and step.message_id is not None:
        value = value["payload"]
    return value


def _under_way(step: DescribedStep) -> str:
    if step.verb not in ("step", "transaction"):
        return "waits"
    if step.next_attempt_at is not None:
        return f"failed, attempt {step.attempt} is next"
    if step.attempt is None and step.verb == "step":
        return "waits for its turn"
    return "runs" if step.attempt in (None, 1) else f"runs, attempt {step.attempt}"


def took(line: Line) -> str:
    """How long it took."""
    end = line.steps[-1].completed_at
    if end is None:
        return "…"
    return duration(max((end - line.first.started_at).total_seconds(), 0))


def legend() -> Text:
    """What the marks mean."""
    return Text("  ".join(f"{mark} {safe(word)}" for mark, word in MARKS_IN_WORDS), "dim")
