"""Makes the acts of random programs that are conversations."""

from __future__ import annotations

from random import Random
from typing import Any, Protocol

from tests.replay.acts import Node

TALKS = (
    "moment", "started", "started", "first_of", "first_of", "first_of", "ask", "answer", "loop", "watch", "merged", "later",
    "send_and_start", "late_child",
)  # fmt: skip
WAITS = ("topic", "topic", "mail", "question", "event", "stream", "step", "step", "child")
STEP_KINDS = ("plain", "plain", "thread", "flaky", "failing", "limited")


class Maker(Protocol):
    """What makes a program."""

    random: Random
    asks: bool

    def tag(self) -> str:
        """A new name."""
        ...

    def act(self, **node: Any) -> None:
        """One more act of the actor."""

    def step(self) -> Node:
        """A step."""
        ...


def make_talk(maker: Maker, name: str) -> Node:
    """An act of this name, with what the actor has to do for it."""
    tag = maker.tag()
    return {"do": name, "tag": tag, **_MAKERS[name](maker, tag)}


def _moment(maker: Maker, tag: str) -> Node:
    return {"how": maker.random.choice(("now", "random", "uuid"))}


def _started(maker: Maker, tag: str) -> Node:
    random, cancels = maker.random, maker.random.random() < 0.5
    hows = (*STEP_KINDS, "endless", "endless") if cancels else (*STEP_KINDS, "endless")
    return {
        "how": random.choice(hows),
        "cancels": cancels,
        "meanwhile": [maker.step() for _ in range(random.randint(0, 2))],
    }


def _first_of(maker: Maker, tag: str) -> Node:
    random = maker.random
    waits = [_wait(maker, random.choice(WAITS)) for _ in range(random.randint(2, 5))]
    return {"waits": waits, "turns": random.randint(1, 7), "seconds": random.choice((None, None, None, 0, 0.004))}


def _wait(maker: Maker, kind: str) -> Node:
    random, tag = maker.random, maker.tag()
    match kind:
        case "topic":
            maker.act(do="send", topic=tag, value=f"{tag} said")
        case "question":
            maker.act(do="ask", topic=tag, value=f"{tag} asked")
        case "event":
            for number in range(random.randint(1, 3)):
                maker.act(do="set", key=tag, value=f"v{number}")
        case "stream":
            _write(maker, tag, random.randint(0, 3))
        case "step":
            return {"kind": kind, "tag": tag, "how": random.choice((*STEP_KINDS, "endless"))}
        case "child":
            return {"kind": kind, "tag": tag, "fails": random.random() < 0.3, "seconds": random.choice((0, 0, 0.005))}
    return {"kind": kind, "tag": tag}


def _write(maker: Maker, key: str, count: int) -> None:
    for number in range(count):
        maker.act(do="write", key=key, value=f"v{number}", how="one")
    maker.act(do="close", key=key)


def _ask(maker: Maker, tag: str) -> Node:
    maker.asks = True
    return {"how": maker.random.choice(("answer", "answer", "refuse", "twice"))}


def _answer(maker: Maker, tag: str) -> Node:
    maker.act(do="ask", topic=tag, value=f"{tag} asked")
    return {}


def _loop(maker: Maker, tag: str) -> Node:
    count = maker.random.randint(1, 4)
    for number in range(count):
        maker.act(do="send", topic=tag, value=f"v{number}")
    return {"topic": tag, "count": count}


def _watch(maker: Maker, tag: str) -> Node:
    count = maker.random.randint(1, 4)
    for number in range(count):
        maker.act(do="set", key=tag, value=f"v{number}")
    return {"key": tag, "own": False, "last": f"v{count - 1}"}


def _merged(maker: Maker, tag: str) -> Node:
    counts = {f"{tag}.{number}": maker.random.randint(0, 4) for number in range(2)}
    left = [key for key, count in counts.items() for _ in range(count + 1)]
    maker.random.shuffle(left)
    written = dict.fromkeys(counts, 0)
    for key in left:
        if written[key] == counts[key]:
            maker.act(do="close", key=key)
        else:
            maker.act(do="write", key=key, value=f"v{written[key]}", how="one")
            written[key] += 1
    return {"counts": counts}


def _later(maker: Maker, tag: str) -> Node:
    return {"delays": [maker.random.choice((0, 0.002, 0.01, 0.03)) for _ in range(maker.random.randint(1, 3))]}


def _send_and_start(maker: Maker, tag: str) -> Node:
    return {}


def _late_child(maker: Maker, tag: str) -> Node:
    return {"seconds": maker.random.choice((0, 0.005, 0.02))}


_MAKERS = {
    "moment": _moment, "started": _started, "first_of": _first_of, "ask": _ask, "answer": _answer, "loop": _loop,
    "watch": _watch, "merged": _merged, "later": _later, "send_and_start": _send_and_start, "late_child": _late_child,
}  # fmt: skip
