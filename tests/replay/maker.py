"""Makes random programs. The same kind and seed make the same program.

Every wait in a program is for something that surely comes: what a block waits for is done in the block, or by the actor, whose
script waits for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from tests.replay.acts import Node
from tests.replay.kinds import KINDS
from tests.replay.talk_maker import TALKS, make_talk

Body = list[Node]
Program = dict[str, Any]
"""``kind``, ``seed``, ``body``, the actor's ``script``, and whether the program ``asks`` the echo. Plain JSON.

One that is asked to end has the acts of its ``farewell``, and ``asked_at``: before which of its boundaries.
"""

LEAVES = (
    "step", "step", "step", "step", "mail", "question", "take", "miss", "set", "get", "write", "read", "child", "sleep",
    "turns",
)  # fmt: skip
STEP_KINDS = ("plain", "plain", "plain", "thread", "flaky", "failing", "limited")
WRITE_KINDS = ("one", "one", "many", "writer", "speech")
SAFE_IN_CANCELLED = frozenset({"lock", "semaphore", "generators", "shared", "in_time", "shield", "receivers"})
"""Blocks that end their tasks in a fixed order. A task group cancels its tasks in the order of a set, that is by address."""


def make(kind: str, seed: object) -> Program:
    """The program of a kind and seed."""
    return _Maker(kind, Random(f"{kind}/{seed}")).make(seed)


def walk(body: Body) -> Iterator[Node]:
    """Every node of a body, those inside of blocks, too."""
    for node in body:
        yield node
        for inner in bodies(node):
            yield from walk(inner)


def bodies(node: Node) -> list[Body]:
    """The bodies inside of a node."""
    inner = [*node.get("branches", []), *(body for _, body in node.get("waiters", []))]
    return (
        inner
        + [node[name] for name in ("body", "meanwhile") if name in node]
        + ([node["after"]] if node["do"] in ("stubborn", "cleanup") else [])
    )


class _Maker:
    def __init__(self, kind: str, random: Random) -> None:
        self.kind, self.random = kind, random
        self.shape = KINDS[kind]
        self.script: Body = []
        self.asks = False
        self.tags = 0
        self.uncertain = int(self.shape.is_asked)
        """Inside how many blocks that cancel what is in them."""

    def make(self, seed: object) -> Program:
        random = self.random
        body: Body = []
        if not self.shape.blocks:
            body = [self.leaf() for _ in range(random.randint(10, 24))]
        else:
            for _ in range(random.randint(2, 3)):
                if random.random() < 0.4:
                    body.append(self.leaf())
                body.append(self.block(random.choice(self.shape.blocks), 2 if self.kind == "mixed" else 1))
            body.append(self.step())
        program = {"kind": self.kind, "seed": str(seed), "body": body, "script": self.script, "asks": self.asks}
        if self.shape.is_asked:
            program |= {"farewell": [self.step(), self.step()], "asked_at": random.randint(1, 12)}
        return program

    def tag(self) -> str:
        self.tags += 1
        return f"t{self.tags}"

    def act(self, **node: Any) -> None:
        """One more act of the actor."""
        self.script.append({"after": self.random.choice((0, 0, 0.002, 0.006, 0.012)), **node})

    def step(self) -> Node:
        return {"do": "step", "tag": self.tag(), "how": self.random.choice(STEP_KINDS)}

    def leaf(self) -> Node:
        random = self.random
        if random.random() < self.shape.talks:
            return make_talk(self, random.choice(TALKS))
        tag = self.tag()
        match random.choice(LEAVES):
            case "mail":
                return {"do": "mail", "tag": tag, "how": random.choice(("recv", "envelope"))}
            case "question":
                self.asks = True
                return {"do": "question", "tag": tag, "how": "recv"}
            case "take":
                self.act(do="send", topic=tag, value=f"v{self.tags}")
                return {"do": "take", "tag": tag, "topic": tag}
            case "miss":
                return {"do": "take", "tag": tag, "topic": "never", "seconds": random.choice((0, 0.005, 0.01))}
            case "set":
                return {"do": "set", "tag": tag, "key": random.choice(("a", "b"))}
            case "get":
                self.act(do="set", key=tag, value=f"v{self.tags}")
                return {"do": "get", "tag": tag, "key": tag}
            case "write":
                return {"do": "write", "tag": tag, "key": random.choice(("r", "s")), "how": random.choice(WRITE_KINDS)}
            case "read":
                for number in range(random.randint(1, 3)):
                    self.act(do="write", key=tag, value=f"v{number}", how=random.choice(WRITE_KINDS))
                self.act(do="close", key=tag)
                return {"do": "read", "tag": tag, "key": tag, "own": False}
            case "child":
                fails, seconds = random.random() < 0.3, random.choice((0, 0, 0.005))
                return {"do": "child", "tag": tag, "fails": fails, "seconds": seconds}
            case "sleep":
                return {"do": "sleep", "tag": tag, "seconds": random.choice((0, 0.003, 0.01))}
            case "turns" if not self.uncertain:
                return {"do": "turns", "tag": tag, "count": random.choice((1, 2, 5, 20, 60))}
            case _:
                return self.step()

    def body(self, depth: int, least: int = 1, most: int = 3) -> Body:
        """Some acts, with a block between them while the depth allows it."""
        random, body = self.random, [self.step()] if self.kind == "private" else []
        for _ in range(random.randint(least, most)):
            inner = [name for name in self.shape.inner if not self.uncertain or name in SAFE_IN_CANCELLED]
            if depth > 0 and inner and random.random() < 0.25:
                body.append(self.block(random.choice(inner), depth - 1))
            else:
                body.append(self.leaf())
        return body

    def branches(self, depth: int, least: int = 2, most: int = 4) -> list[Body]:
        return [self.body(depth) for _ in range(self.random.randint(least, most))]

    def locking(self, depth: int, least: int = 2) -> list[Body]:
        """Branches whose second act holds a lock, and their fourth, if they have one."""
        return [self.body(depth, 2, 4) for _ in range(self.random.randint(least, least + 2))]

    def leaves(self, least: int, most: int) -> Body:
        return [self.leaf() for _ in range(self.random.randint(least, most))]

    def cancelled(self, make: Callable[[], Any]) -> Any:
        """What is made here may be cancelled at any act."""
        self.uncertain += 1
        try:
            return make()
        finally:
            self.uncertain -= 1

    def block(self, name: str, depth: int) -> Node:
        tag = self.tag()
        return {"tag": tag, **getattr(self, f"_{name}")(tag, depth)}

    # Each of these makes one block.

    def _private(self, tag: str, depth: int) -> Node:
        how = self.random.choice(("gather", "group", "anyio", "tasks"))
        node = {"do": "side_by_side", "how": how, "shared": False, "branches": self.branches(depth)}
        return node | ({"meanwhile": self.body(0, 0, 2)} if how == "group" else {})

    def _shared(self, tag: str, depth: int) -> Node:
        how = self.random.choice(("gather", "gather", "tasks"))
        return {"do": "side_by_side", "how": how, "shared": True, "branches": self.branches(depth)}

    def _group(self, tag: str, depth: int) -> Node:
        node = {"do": "side_by_side", "how": "group", "shared": True, "branches": self.branches(depth)}
        return node | {"meanwhile": self.body(0, 0, 2)}

    def _anyio_group(self, tag: str, depth: int) -> Node:
        return {"do": "side_by_side", "how": "anyio", "shared": True, "branches": self.branches(depth)}

    def _lock(self, tag: str, depth: int) -> Node:
        how = self.random.choice(("lock", "lock", "anyio_lock"))
        return {"do": "one_by_one", "how": how, "branches": self.locking(depth)}

    def _semaphore(self, tag: str, depth: int) -> Node:
        how = self.random.choice(("semaphore", "semaphore", "limiter"))
        return {"do": "one_by_one", "how": how, "branches": self.locking(depth, 3)}

    def _condition(self, tag: str, depth: int) -> Node:
        workers = self.branches(depth, 2, 3)
        acts = sum(map(len, workers))
        waiters = [[self.random.randint(1, acts), self.body(0, 1, 2)] for _ in range(self.random.randint(1, 3))]
        return {"do": "condition", "branches": workers, "waiters": waiters}

    def _event(self, tag: str, depth: int) -> Node:
        found = self.branches(depth, 3, 5)
        after = [sorted(self.random.sample(range(n), self.random.randint(0, min(n, 2)))) for n in range(len(found))]
        return {"do": "events", "how": self.random.choice(("asyncio", "anyio")), "branches": found, "after": after}

    def _future(self, tag: str, depth: int) -> Node:
        return {"do": "futures", "how": self.random.choice(("future", "barrier")), "branches": self.branches(depth)}

    def _queue(self, tag: str, depth: int) -> Node:
        node = {
            "do": "queue",
            "how": self.random.choice(("fifo", "fifo", "lifo")),
            "size": self.random.choice((0, 1, 2)),
        }
        return node | {"branches": self.branches(depth, 1, 3), "consumers": self.random.randint(1, 3)}

    def _memory_stream(self, tag: str, depth: int) -> Node:
        node = {"do": "memory_stream", "size": self.random.choice((0, 1, 2))}
        return node | {"branches": self.branches(depth, 1, 3), "consumers": self.random.randint(1, 3)}

    def _first(self, tag: str, depth: int) -> Node:
        found = self.cancelled(lambda: self.branches(depth))
        return {"do": "first", "how": "in order", "branches": found, "enough": self.random.randint(1, len(found))}

    def _first_by_address(self, tag: str, depth: int) -> Node:
        # The last step is common to two branches, so that they often end at one moment.
        found = [[{"do": "step", "tag": self.tag(), "how": "plain"}] for _ in range(6)]
        return {"do": "first", "how": "by address", "branches": found, "enough": 6}

    def _completed(self, tag: str, depth: int) -> Node:
        return {"do": "completed", "how": "tasks", "branches": self.branches(depth)}

    def _completed_coroutines(self, tag: str, depth: int) -> Node:
        return {"do": "completed", "how": "coroutines", "branches": self.branches(depth)}

    def _race(self, tag: str, depth: int) -> Node:
        def make() -> list[Body]:
            found = self.branches(depth)
            if self.random.random() < 0.5:
                inner, after = found[0], self.leaves(1, 1)
                found[0] = [{"do": "cleanup", "tag": self.tag(), "body": inner, "after": after}]
            return found

        return {"do": "first", "how": "in order", "branches": self.cancelled(make), "enough": 1}

    def _stop(self, tag: str, depth: int) -> Node:
        work = self.cancelled(lambda: [*self.body(depth, 3, 5), *self.leaves(1, 2)])
        stop = self.tag()
        self.act(do="send", topic=stop, value="stop")
        stopper = [{"do": "take", "tag": stop, "topic": stop}]
        return {"do": "first", "how": "in order", "branches": [work, stopper], "enough": 1}

    def _abandon(self, tag: str, depth: int) -> Node:
        topic = self.tag()
        self.act(do="send", topic=topic, value="late")
        waits = [{"do": "take", "tag": self.tag(), "topic": topic}]
        race = {"do": "first", "tag": self.tag(), "how": "in order", "enough": 1}
        race["branches"] = self.cancelled(lambda: [waits, self.leaves(1, 2), self.leaves(1, 2)])
        again = {"do": "take", "tag": self.tag(), "topic": topic, "seconds": 0.02}
        return {"do": "side_by_side", "how": "gather", "shared": True, "branches": [[race, again], self.leaves(1, 3)]}

    def _shield(self, tag: str, depth: int) -> Node:
        return {"do": "shield", "branches": [self.body(depth, 2, 4), self.leaves(1, 2)]}

    def _stubborn(self, tag: str, depth: int) -> Node:
        work = self.cancelled(lambda: self.body(depth, 2, 4))
        return {"do": "stubborn", "branches": [work, self.leaves(1, 2)], "after": self.leaves(1, 2)}

    def _errors(self, tag: str, depth: int, hows: tuple[str, ...] = ("group", "group", "gather")) -> Node:
        how = self.random.choice(hows)
        found = self.cancelled(lambda: self.branches(depth if how == "gather" else 0, 3, 5))
        fail = sorted(self.random.sample(range(len(found)), self.random.randint(1, 2)))
        return {"do": "errors", "how": how, "branches": found, "fail": fail}

    def _anyio_errors(self, tag: str, depth: int) -> Node:
        return self._errors(tag, depth, ("anyio",))

    def _errors_in_locals(self, tag: str, depth: int) -> Node:
        found = [self.leaves(1, 2)]
        found += [[self.block(self.random.choice(self.shape.inner), 0)] for _ in range(4)]
        return {"do": "errors", "how": "group", "branches": found, "fail": [0]}

    def _generators(self, tag: str, depth: int, shared: bool = True) -> Node:
        return {"do": "generators", "shared": shared, "branches": self.branches(depth, 2, 3)}

    def _private_generators(self, tag: str, depth: int) -> Node:
        return self._generators(tag, depth, shared=False)

    def _receivers(self, tag: str, depth: int) -> Node:
        random, topic = self.random, self.tag()
        found: list[Body] = []
        for _ in range(random.randint(2, 3)):
            takes = [{"do": "take", "tag": self.tag(), "topic": topic} for _ in range(random.randint(1, 3))]
            found.append([node for take in takes for node in (take, *self.leaves(0, 1))])
        for number in range(sum(node.get("topic") == topic for body in found for node in body)):
            self.act(do="send", topic=topic, value=f"v{number}")
        return {"do": "side_by_side", "how": "gather", "shared": True, "branches": found}

    def _own_events(self, tag: str, depth: int) -> Node:
        key, said = self.tag(), self.tag()
        setter = [*self.leaves(0, 2), {"do": "set", "tag": said, "key": key}]
        getters = [
            [*self.leaves(0, 1), {"do": "get_own", "tag": self.tag(), "key": key, "of": said}, *self.leaves(0, 1)]
            for _ in range(self.random.randint(1, 3))
        ]
        return {"do": "side_by_side", "how": "gather", "shared": True, "branches": [setter, *getters]}

    def _own_versions(self, tag: str, depth: int) -> Node:
        key, said = self.tag(), [self.tag() for _ in range(self.random.randint(1, 4))]
        setter = [node for one in said for node in (*self.leaves(0, 1), {"do": "set", "tag": one, "key": key})]
        watchers = [
            [*self.leaves(0, 1), {"do": "watch", "tag": self.tag(), "key": key, "own": True, "last": said[-1]}]
            for _ in range(self.random.randint(1, 2))
        ]
        return {"do": "side_by_side", "how": "gather", "shared": True, "branches": [setter, *watchers]}

    def _own_stream(self, tag: str, depth: int) -> Node:
        key, writer = self.tag(), self.leaves(0, 1)
        for _ in range(self.random.randint(1, 4)):
            how = self.random.choice(WRITE_KINDS)
            writer += [{"do": "write", "tag": self.tag(), "key": key, "how": how}, *self.leaves(0, 1)]
        writer.append({"do": "close", "tag": self.tag(), "key": key})
        readers = [
            [*self.leaves(0, 1), {"do": "read", "tag": self.tag(), "key": key, "own": True}]
            for _ in range(self.random.randint(1, 2))
        ]
        return {"do": "side_by_side", "how": "gather", "shared": True, "branches": [writer, *readers]}

    def _in_time(self, tag: str, depth: int) -> Node:
        how = self.random.choice(("timeout", "wait_for", "anyio"))
        return {"do": "in_time", "how": how, "body": self.body(depth, 1, 4)}

    def _timer(self, tag: str, depth: int) -> Node:
        how = self.random.choice(("timeout", "wait_for", "anyio"))
        seconds = self.random.choice((0.003, 0.008, 0.02))
        return {"do": "in_time", "how": how, "body": self.cancelled(lambda: self.body(0, 1, 4)), "seconds": seconds}
