"""What a wave of workflows is to do, made from a seed: a program for each, and what the driver sends to them.

Programs cannot wait for each other in a circle, since whatever one waits for was planned before the waiting was: in each round
everybody speaks, and then everybody listens. What is read up to the end of its workflow is read last of all, and only from
workflows with a smaller number.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

from dbos_async import SendMessage
from tests.chaos.plan_types import GO, ROUNDS, STEP_KINDS, TOPICS, Instruction, Outside, Plan, Program
from tests.chaos.talk_plan import TalkMaker

HOW_TO_RECEIVE = ("recv", "recv", "envelope", "messages")


def make_plan(seed: int, wave: int, size: int) -> Plan:
    """The plan of one wave; the same for the same arguments."""
    return _Maker(Random(f"{seed}/{wave}"), f"{wave}", size).make()


class _Maker(TalkMaker):
    def __init__(self, random: Random, wave: str, size: int) -> None:
        self.random = random
        self.plan = Plan()
        self.ids = [f"{wave}-{n}" + (" :: 'ü' \\ 🎲" if n % 10 == 3 else "") for n in range(size)]
        self.desks = [f"{wave}-desk {n}" for n in range(1 + size // 20)]
        self.arrived: dict[str, Counter[str | None]] = {one: Counter() for one in (*self.ids, *self.desks)}
        """By topic, how many messages have been sent to a workflow so far."""
        self.drained: dict[str, Counter[str | None]] = {one: Counter() for one in self.ids}
        self.events: Counter[str] = Counter()
        self.closed: list[tuple[str, str, int]] = []
        self.open: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self.marks = 0

    def make(self) -> Plan:
        random, plan, ids = self.random, self.plan, self.ids
        plan.victims = sorted(random.sample(ids, max(1, len(ids) // 15)))
        for place, one in enumerate(ids):
            program: Program = [self._set(one)]
            if random.random() < 0.3:  # perhaps of a workflow that has not started yet
                program.append({"do": "get", "of": ids[(place + 1) % len(ids)], "key": "e"})
            program.append({"do": "drain", "topic": GO, "up_to": 1, "how": "recv"})
            plan.mail[one, GO]["the driver"] = 1
            plan.programs[one] = program
        plan.started_by_go = [random.choice(ids)]  # before the others go, since it sends to them
        plan.late = {
            one: random.choice((0.2, 0.8))
            for one in ids
            if one not in (*plan.victims, *plan.started_by_go) and random.random() < 0.1
        }
        self._send_from_outside()
        self._ask_from_outside()
        for round_number in range(ROUNDS):
            gathers = {one: self._gather(one, round_number) for one in ids if random.random() < 0.4}
            firsts = {one: self._first(one, round_number) for one in ids if random.random() < 0.4}
            for one in ids:
                self._speak(one, round_number)
            for one in ids:
                plan.programs[one] += self._listen(
                    one, round_number, [inner[one] for inner in (gathers, firsts) if one in inner]
                )
                if round_number < ROUNDS - 1 and random.random() < 0.3:
                    plan.programs[one] += [self._send(one, self._peer(one), random.choice(TOPICS)), self._step()]
        for place, one in enumerate(ids):
            if place and random.random() < 0.5:
                other = ids[random.randrange(place)]
                for key, length in self.open[other]:
                    plan.programs[one].append(self._read(other, key, length))
                plan.programs[one] += self._follow(one, other, self.open[other])
        self._make_desks()
        return plan

    def _speak(self, one: str, round_number: int) -> None:
        random, program = self.random, self.plan.programs[one]
        for _ in range(random.randint(4, 9)):
            match random.choice(
                (
                    "step",
                    "step",
                    "send",
                    "send",
                    "keyed",
                    "bulk",
                    "set",
                    "child",
                    "inside",
                    "astray",
                    "sleep",
                    *["talk"] * 6,
                )
            ):
                case "step":
                    program.append(self._step())
                case "send":
                    program.append(self._send(one, self._peer(one), random.choice(TOPICS)))
                case "keyed":
                    keyed = self._send(one, self._peer(one), random.choice(TOPICS))
                    program.append({**keyed, "times": 2, "key": f"key {self._mark()}"})
                case "bulk":
                    to, topic = self._peer(one), random.choice(TOPICS)
                    sends = [self._send(one, to, topic) for _ in range(random.randint(1, 3))]
                    sends += [
                        self._send(one, self._peer(one), random.choice(TOPICS)) for _ in range(random.randint(1, 3))
                    ]
                    program.append({"do": "bulk", "messages": sends})
                case "set":
                    program += [self._set(one) for _ in range(random.randint(1, 3))]
                case "child":
                    program.append(self._child(one))
                case "inside":
                    to, topic = self._peer(one), f"inside {self._mark()}"
                    program.append({"do": "step", "kind": "inside", "tag": self._mark(), "to": to, "topic": topic})
                    program.append(self._send(one, to, topic))
                case "astray":
                    program.append({"do": "send_astray", "to": self._peer(one)})
                case "talk":
                    program += self._talk(one, round_number)
                case "sleep":
                    program.append({"do": "sleep", "seconds": random.choice((0, 0.05, 0.3, 1.0))})
        key, length = f"s{round_number}", random.randint(1, 12)
        for begin in range(0, length, 5):
            program.append({"do": "write", "key": key, "from": begin, "to": min(begin + 5, length)})
        if random.random() < 0.7:
            program.append({"do": "close", "key": key, "again": random.random() < 0.3})
            self.closed.append((one, key, length))
        else:
            self.open[one].append((key, length))

    def _listen(self, one: str, round_number: int, long: list[Instruction]) -> Program:
        random, last = self.random, round_number == ROUNDS - 1
        parts: list[Program] = [[instruction] for instruction in long]
        arrived, drained = self.arrived[one], self.drained[one]
        for topic in list(arrived):
            if isinstance(topic, str) and topic.startswith("inside "):
                if not drained[topic]:
                    drained[topic] = arrived[topic]
                    parts.append([{"do": "until_end", "topic": topic}])
            elif isinstance(topic, str) and topic.startswith(("branch ", "first ")):
                pass  # Its branch or loop takes them.
            elif isinstance(topic, str) and topic.startswith("pair "):
                if not drained[topic]:
                    drained[topic] = arrived[topic]
                    parts.append([{"do": "pair", "topic": topic}])
            elif arrived[topic] > drained[topic]:
                up_to = arrived[topic] if last else random.randint(drained[topic], arrived[topic])
                drained[topic] = up_to
                part: Program = []
                if random.random() < 0.3:
                    part.append({"do": "maybe", "topic": topic, "seconds": random.choice((0, 0.05, 0.3))})
                part.append({"do": "drain", "topic": topic, "up_to": up_to, "how": random.choice(HOW_TO_RECEIVE)})
                parts.append(part)
        parts += [[{"do": "get", "of": self._peer(one), "key": "e"}] for _ in range(random.randint(1, 3))]
        if self.closed:
            parts += [[self._read(*random.choice(self.closed))] for _ in range(random.randint(0, 2))]
        if random.random() < 0.3 and (merge := self._merge()) is not None:
            parts.append([merge])
        children = [i["name"] for i in self.plan.programs[one] if i["do"] == "start"]
        fetched = {i["name"] for i in self.plan.programs[one] if i["do"] == "result"}
        parts += [[{"do": "result", "name": name}] for name in children if name not in fetched]
        if random.random() < 0.2:
            parts.append([{"do": "maybe", "topic": "never", "seconds": random.choice((0, 0.2))}])
        random.shuffle(parts)
        return [instruction for part in parts for instruction in part]

    def _gather(self, one: str, round_number: int) -> Instruction:
        random = self.random
        branches: list[Program] = []
        for number in range(random.randint(2, 4)):
            name = f"branch {round_number}.{number}"
            count = random.randint(0, 3)
            for _ in range(count):
                sender = self._peer(one)
                self.plan.programs[sender].append(self._send(sender, one, name))
            parts: list[Program] = [
                [self._step()],
                [{"do": "sleep", "seconds": random.choice((0, 0.02, 0.1))}],
                [{"do": "write", "key": name, "from": 0, "to": random.randint(1, 4)}],
                [{"do": "drain", "topic": name, "up_to": count, "how": "recv"}],
                [self._step(), self._step()],
                [{"do": "set", "key": name, "n": n} for n in range(1, random.randint(2, 4))],
            ]
            random.shuffle(parts)
            branches.append([instruction for part in parts for instruction in part])
        if random.random() < 0.5:
            topic = f"pair {round_number}"
            for _ in range(2):
                sender = self._peer(one)
                self.plan.programs[sender].append(self._send(sender, one, topic))
        return {"do": "gather", "branches": branches}

    def _child(self, one: str) -> Instruction:
        random, name = self.random, self._mark()
        program: Program = [self._step() for _ in range(random.randint(1, 3))]
        program.append({"do": "set", "key": "e", "n": 1})
        program.append({"do": "write", "key": "s0", "from": 0, "to": random.randint(1, 4)})
        program.append({"do": "sleep", "seconds": random.choice((0, 0.1, 0.5))})
        known_id = f"{one} child {name}" if random.random() < 0.5 else None
        delay = random.choice((None, None, None, 0.3))
        return {"do": "start", "name": name, "id": known_id, "program": program, "delay": delay}

    def _send_from_outside(self) -> None:
        random = self.random
        for sender in ("outside 0", "outside 1"):
            calls: list[Outside] = []
            for _ in range(len(self.ids)):
                count = random.choice((1, 1, 1, 4))
                messages = []
                for _ in range(count):
                    send = self._send(sender, random.choice(self.ids), "out")
                    messages.append(SendMessage(send["to"], send["value"], "out", idempotency_key=self._mark()))
                calls.append(Outside(messages))
            self.plan.outside[sender] = calls

    def _send(self, sender: str, to: str, topic: str | None) -> Instruction:
        senders = self.plan.mail[to, topic]
        value = {"from": sender, "n": senders[sender], "event": self.events[sender]}
        senders[sender] += 1
        self.arrived[to][topic] += 1
        return {"do": "send", "to": to, "topic": topic, "value": value}

    def _set(self, one: str) -> Instruction:
        self.events[one] += 1
        return {"do": "set", "key": "e", "n": self.events[one]}

    def _step(self) -> Instruction:
        return {"do": "step", "kind": self.random.choice(STEP_KINDS), "tag": self._mark()}

    def _read(self, of: str, key: str, length: int) -> Instruction:
        offset = 0 if self.random.random() < 0.6 else self.random.randint(0, length)
        return {"do": "read", "of": of, "key": key, "offset": offset}

    def _peer(self, one: str) -> str:
        place = self.ids.index(one)
        if self.random.random() < 0.5:
            return self.ids[(place + 1) % len(self.ids)]
        return self.ids[(place + self.random.randrange(1, len(self.ids))) % len(self.ids)]

    def _mark(self) -> str:
        self.marks += 1
        return f"{self.ids[0]}/{self.marks}"
