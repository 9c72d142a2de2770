"""Makes a program that replays differently smaller, as long as it still does."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Iterator

from tests.replay.acts import Node
from tests.replay.judge import Verdict
from tests.replay.maker import Body, Program, bodies, walk

TRIES = 6
"""Time decides what happens, so each smaller program is played so often, side by side, before it counts as exact."""

FEWER_BRANCHES = frozenset({"side_by_side", "one_by_one", "queue", "memory_stream", "generators", "completed", "first"})
"""Blocks that work with any number of branches."""

COMMON_KEYS = frozenset("abrs")
"""Events and streams for which no task waits."""


async def shrink(verdict: Verdict, play: Callable[[Program], Awaitable[Verdict]], seconds: float) -> Verdict:
    """The verdict on the smallest program with the same outcome that was found in that time."""
    ends_at = time.monotonic() + seconds
    smaller = smaller_programs(verdict.program)
    while time.monotonic() < ends_at and (program := next(smaller, None)) is not None:
        verdicts = await asyncio.gather(*(play(copy.deepcopy(program)) for _ in range(TRIES)))
        found = next((one for one in verdicts if one.outcome == verdict.outcome), None)
        if found is not None:
            verdict, smaller = found, smaller_programs(found.program)
    return verdict


def smaller_programs(program: Program) -> Iterator[Program]:
    """The programs with one branch or one node less, those first that lack most."""
    found = [_without(program, number) for number in range(len(_removals(program["body"])))]
    yield from sorted(found, key=lambda smaller: sum(1 for _ in walk(smaller["body"])))


def _removals(body: Body, keep: int = 0) -> list[tuple[Body | list[Body], int]]:
    """Everything that can be taken away: the list in which it stands, and its index there."""
    found: list[tuple[Body | list[Body], int]] = [(body, n) for n in range(keep, len(body)) if not _is_awaited(body[n])]
    for node in body:
        inner: list[Body] = node.get("branches", [])
        if (
            node["do"] in FEWER_BRANCHES
            and len(inner) > 1
            and not any(_is_awaited(act) for one in inner for act in one)
        ):
            found += [(inner, n) for n in range(len(inner))]
        if node["do"] != "condition":  # its waiters count the acts
            for one in bodies(node):
                found += _removals(one, keep=1 if node["do"] == "futures" else 0)
    return found


def _is_awaited(node: Node) -> bool:
    """Whether another task may wait for what this act does."""
    return node["do"] in ("set", "write", "close") and node["key"] not in COMMON_KEYS


def _without(program: Program, number: int) -> Program:
    smaller = copy.deepcopy(program)
    place, index = _removals(smaller["body"])[number]
    del place[index]
    return smaller
