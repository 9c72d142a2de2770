"""What a plan is made of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dbos_async import SendMessage

Instruction = dict[str, Any]
Program = list[Instruction]

TOPICS = (None, "updates", "a :: topic", "テーマ 🎈")
STEP_KINDS = ("plain", "plain", "plain", "blocking", "flaky", "failing")
ROUNDS = 3
GO = "go"


@dataclass
class Outside:
    """One call of the driver: a send of one message, or a bulk. Keys make it safe to repeat."""

    messages: list[SendMessage]


@dataclass
class Plan:
    """One wave."""

    programs: dict[str, Program] = field(default_factory=dict)
    outside: dict[str, list[Outside]] = field(default_factory=dict)
    """Two senders outside of workflows, each with its calls in order."""
    asks: dict[str, list[Instruction]] = field(default_factory=dict)
    """Two askers outside of workflows, each with its questions in order."""
    started: dict[str, Program] = field(default_factory=dict)
    """Workflows that are started by a message to them."""
    late: dict[str, float] = field(default_factory=dict)
    """After how many seconds a workflow of the driver begins."""
    started_by_go: list[str] = field(default_factory=list)
    """Workflows that the message ``go`` starts."""
    victims: list[str] = field(default_factory=list)
    """Who is cancelled and resumed on the way: what others read from them may have ended early."""
    mail: defaultdict[tuple[str, str | None], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """How many messages each sender has for a destination and topic; they are numbered 0, 1, 2 …"""


def walk(program: Program) -> Iterator[Instruction]:
    """Every instruction of a program, those of its branches too, but not those of its children."""
    for instruction in program:
        yield instruction
        for branch in instruction.get("branches", ()):
            yield from walk(branch)
