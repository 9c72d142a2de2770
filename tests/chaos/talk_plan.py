"""The conversations of a plan: who asks whom, who waits for the first of what, who watches, what comes later.

Only desks answer, and they wait for nothing but questions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from random import Random
from typing import Any

from tests.chaos.plan_types import Instruction, Plan, Program

HOW_TO_ANSWER = ("answer", "answer", "refuse", "twice", "step")
DELAYS = (0.3, 0.3, 0.6, 1.2)


class TalkMaker(ABC):
    """What makes conversations."""

    random: Random
    plan: Plan
    ids: list[str]
    desks: list[str]
    closed: list[tuple[str, str, int]]

    @abstractmethod
    def _send(self, sender: str, to: str, topic: str | None) -> Instruction: ...

    @abstractmethod
    def _peer(self, one: str) -> str: ...

    @abstractmethod
    def _mark(self) -> str: ...

    @abstractmethod
    def _step(self) -> Instruction: ...

    def _talk(self, one: str, round_number: int) -> Program:
        """One conversation in which nobody waits for somebody who may be waiting."""
        random = self.random
        match random.choice(("ask", "ask", "started", "later", "later", "send_start", "moments", "watch")):
            case "ask":
                return [self._ask(one)]
            case "started":
                cancels = random.random() < 0.5
                kind = random.choice(
                    ("plain", "flaky", "failing", "endless") if cancels else ("plain", "flaky", "failing")
                )
                seconds = random.choice((0, 0, 0.02))
                return [{"do": "started", "kind": kind, "tag": self._mark(), "cancels": cancels, "seconds": seconds}]
            case "later":
                to = self._peer(one)
                sends = [self._send(one, to, "later") for _ in range(random.randint(1, 4))]
                same = random.choice(DELAYS)
                return [
                    {
                        "do": "later",
                        "messages": [{**send, "delay": random.choice((same, same, *DELAYS))} for send in sends],
                    }
                ]
            case "send_start":
                return self._send_start(one)
            case "moments":
                return [{"do": "moments"}]
            case _:
                return [{"do": "watch", "of": self._peer(one), "most": 1}]

    def _ask(self, one: str) -> Instruction:
        random, desk = self.random, random_desk(self)
        send = self._send(one, desk, "question")
        value = {**send["value"], "how": random.choice(HOW_TO_ANSWER)}
        times = random.choice((1, 1, 2))
        key = f"question {self._mark()}" if times > 1 or random.random() < 0.3 else None
        return {
            "do": "ask", "to": desk, "topic": "question", "value": value, "times": times, "key": key,
            "seconds": random.choice((None, None, 0, 0.05)),
        }  # fmt: skip

    def _send_start(self, one: str) -> Program:
        """Two workflows send to one that is not there; whoever comes first starts it."""
        random, to = self.random, f"{self.ids[0]} started {self._mark()}"
        other = self._peer(one)
        program: Program = [{"do": "drain", "topic": "begin", "up_to": 2, "how": "envelope"}, self._step()]
        self.plan.started[to] = program
        sends = []
        for sender in (one, other):
            senders = self.plan.mail[to, "begin"]
            value = {"from": sender, "n": senders[sender], "event": 0}
            senders[sender] += 1
            sends.append({"do": "send_start", "to": to, "topic": "begin", "value": value, "program": program})
        self.plan.programs[other].append(sends[1])
        if random.random() < 0.3:
            return [sends[0]]
        return [self._step(), sends[0]]

    def _first(self, one: str, round_number: int) -> Instruction:
        """What peers send to two topics, and this workflow receives in one loop."""
        random, topics = self.random, dict[str, int]()
        for letter in "ab":
            topic = f"first {round_number}{letter}"
            topics[topic] = random.randint(1, 4)
            for _ in range(topics[topic]):
                sender = self._peer(one)
                self.plan.programs[sender].append(self._send(sender, one, topic))
        return {
            "do": "first", "topics": topics, "tag": self._mark(), "of": random.choice((None, self._peer(one))),
            "seconds": random.choice((None, 0, 0.05)),
        }  # fmt: skip

    def _merge(self) -> Instruction | None:
        """Two streams of which each is closed, whoever writes it."""
        found = list(dict.fromkeys((of, key) for of, key, _ in self.closed))
        if len(found) < 2:
            return None
        return {"do": "merge", "streams": [list(place) for place in self.random.sample(found, 2)]}

    def _follow(self, one: str, other: str, is_open: list[tuple[str, int]]) -> Program:
        """What ends with its workflow."""
        streams = [[other, key] for key, _ in is_open]
        watch: Program = [{"do": "watch", "of": other, "most": 0}]
        return watch + ([{"do": "merge", "streams": streams}] if len(streams) > 1 else [])

    def _ask_from_outside(self) -> None:
        for sender in ("asker 0", "asker 1"):
            asks = [{**self._ask(sender), "key": self._mark()} for _ in range(len(self.ids) // 4)]
            self.plan.asks[sender] = asks

    def _make_desks(self) -> None:
        """The programs of the desks, once all questions are known."""
        asks = [ask for program in self.plan.programs.values() for ask in program if ask["do"] == "ask"]
        asks += [ask for several in self.plan.asks.values() for ask in several]
        for desk in self.desks:
            hows = Counter(ask["value"]["how"] for ask in asks if ask["to"] == desk)
            program: Program = []
            if hows:
                program.append({"do": "desk", "topic": "question", "count": hows.total(), "hows": dict(hows)})
            self.plan.programs[desk] = program


def random_desk(maker: Any) -> str:
    """Somebody to ask."""
    desk: str = maker.random.choice(maker.desks)
    return desk
