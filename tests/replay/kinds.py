"""The kinds of random programs: which blocks they are made of, and what must hold for them."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """Blocks of the outermost level, and blocks that may stand in those."""

    blocks: tuple[str, ...]
    inner: tuple[str, ...] = ()
    talks: float = 0.15
    """How many of its acts are conversations."""
    is_asked: bool = False
    """Whether its program is asked to end at some moment, and has acts for its clean-up."""


BLOCKS_OF_ALL = (
    "shared", "shared", "group", "anyio_group", "lock", "semaphore", "condition", "event", "future", "queue", "memory_stream",
    "first", "completed", "race", "stop", "shield", "stubborn", "errors", "generators", "receivers", "own_events",
    "own_stream", "own_versions", "in_time",
)  # fmt: skip

EXACT: dict[str, Kind] = {
    "sequence": Kind(()),
    "talks": Kind((), talks=0.85),
    "private": Kind(
        ("private", "private", "private_generators", "in_time"), ("private", "private_generators", "in_time")
    ),
}
"""Tasks that share nothing, and begin with a step of their own: these replay exactly without any order."""

ORDERED: dict[str, Kind] = {
    "late": Kind(("private", "private_generators", "in_time"), ("private", "private_generators", "in_time")),
    "shared": Kind(("shared",), ("shared",)),
    "groups": Kind(("group", "anyio_group"), ("group", "anyio_group", "shared")),
    "queue": Kind(("queue",)),
    "lock": Kind(("lock",)),
    "semaphore": Kind(("semaphore",), ("lock",)),
    "condition": Kind(("condition",)),
    "event": Kind(("event",), ("event",)),
    "future": Kind(("future",)),
    "first": Kind(("first",)),
    "completed": Kind(("completed",)),
    "race": Kind(("race",), ("lock", "generators")),
    "stop": Kind(("stop",), ("shared",)),
    "errors": Kind(("errors",)),
    "shield": Kind(("shield",)),
    "stubborn": Kind(("stubborn",)),
    "generators": Kind(("generators",), ("shared",)),
    "anyio": Kind(("anyio_group", "memory_stream"), ("memory_stream",)),
    "anyio_errors": Kind(("anyio_errors",)),
    "messages": Kind(("receivers", "abandon", "receivers"), ()),
    "events": Kind(("own_events", "own_stream")),
    "limits": Kind(("in_time",), ("shared", "race")),
    "conversations": Kind(("shared", "group", "own_versions"), ("shared", "own_versions"), 0.7),
    "interrupted": Kind(("race", "stop", "abandon", "errors", "stubborn", "shield"), ("shared",), 0.7),
    "mixed": Kind(BLOCKS_OF_ALL, BLOCKS_OF_ALL),
}
"""Tasks that share state: only the recorded order makes these exact."""

CORNERS: dict[str, Kind] = {
    "timers": Kind(("timer", "shared", "timer")),
    "set_order": Kind(("first_by_address",)),
    "completed_coroutines": Kind(("completed_coroutines",)),
    "errors_in_locals": Kind(("errors_in_locals",), ("lock", "event", "shared")),
}
"""Programs outside of the rule: clocks, and orders that asyncio takes from addresses. They may be parked, not be different."""

ASKED: dict[str, Kind] = {
    f"asked_{name}": (EXACT | ORDERED)[name]._replace(is_asked=True)
    for name in ("sequence", "talks", "private", "shared", "first", "lock", "conversations", "messages", "generators")
}
"""Programs that are asked to end: what was under way is cancelled on record, and a clean-up follows."""

GROUPS = {"exact": EXACT, "ordered": ORDERED, "asked": ASKED, "corners": CORNERS}
KINDS = EXACT | ORDERED | ASKED | CORNERS


def chosen(names: list[str]) -> list[str]:
    """The kinds that these names of kinds and groups stand for; without any, all but the corners."""
    found: list[str] = []
    for name in names or ["exact", "ordered", "asked"]:
        if name == "all":
            found += KINDS
        elif name not in GROUPS and name not in KINDS:
            raise ValueError(f"There is no kind {name!r}: choose of all, {', '.join([*GROUPS, *KINDS])}.")
        else:
            found += GROUPS.get(name, [name])
    return list(dict.fromkeys(found))
