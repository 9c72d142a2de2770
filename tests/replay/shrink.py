"""Makes a program that replays differently smaller, as long as it still does."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Iterator

from tests.replay.judge import SAME, Verdict
from tests.replay.maker import Body, Program, bodies, walk

TRIES = 6
"""Time decides what happens, so each smaller program is played so often, side by side, before it counts as exact."""


async def shrink(verdict: Verdict, play: Callable[[Program], Awaitable[Verdict]], seconds: float) -> Verdict:
    """The verdict on the smallest program that was found in that time."""
    ends_at = time.monotonic() + seconds
    goes_on = True
    while goes_on and time.monotonic() < ends_at:
        goes_on = False
        for smaller in smaller_programs(verdict.program):
            if time.monotonic() > ends_at:
                break
            verdicts = await asyncio.gather(*(play(copy.deepcopy(smaller)) for _ in range(TRIES)))
            found = [one for one in verdicts if one.outcome == verdict.outcome]
            if verdict.outcome != SAME and found:
                verdict, goes_on = found[0], True
                break
    return verdict


def smaller_programs(program: Program) -> Iterator[Program]:
    """The programs with one branch or one node less, those first that lack most."""
    count = len(_removals(program["body"]))
    sizes = {n: len(list(walk(_without(program, n)["body"]))) for n in range(count)}
    for n in sorted(sizes, key=sizes.__getitem__):
        yield _without(program, n)


def _removals(body: Body) -> list[tuple[Body | list[Body], int]]:
    """Every place from which something can be taken: a list, and an index in it."""
    found: list[tuple[Body | list[Body], int]] = [
        (body, n) for n, node in enumerate(body) if node["do"] not in ("write", "close")
    ]
    for node in body:
        inner: list[Body] = node.get("branches", [])
        # What has a number for each branch keeps all of them.
        if (
            node["do"] in ("side_by_side", "one_by_one", "queue", "memory_stream", "generators", "completed")
            and len(inner) > 1
        ):
            found += [(inner, n) for n in range(len(inner))]
        for one in bodies(node):
            # The first act of a branch with a barrier or a future is needed; an event or message that others wait for, too.
            least = 1 if node["do"] == "futures" else 0
            found += [
                (place, n)
                for place, n in _removals(one)
                if place is not one or (len(one) > least and _is_free(one[n]["do"]))
            ]
    return found


def _is_free(do: str) -> bool:
    return do not in ("set", "write", "close")


def _without(program: Program, number: int) -> Program:
    smaller = copy.deepcopy(program)
    place, index = _removals(smaller["body"])[number]
    del place[index]
    return smaller
