"""Whether every message of a wave was stored, received and ordered as promised (M1 to M8)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

from tests.chaos.facts import (
    Checks,
    by_sender,
)

TALKS = {"first": "C1", "begin": "C4", "question": "C2", "later": "C4"}
"""The promises of the topics of conversations, by how their names begin."""


class MessageChecks(Checks):
    """The checks of messages."""

    def _check_messages(self, one: str) -> None:
        taken = Counter(row["message_id"] for row in self.facts.steps[one] if row["message_id"] is not None)
        by_topic: defaultdict[str | None, list[Any]] = defaultdict(list)
        keys: Counter[str] = Counter()
        for row in self.facts.messages[one]:
            payload = json.loads(row["payload"])
            if isinstance(payload, dict) and "from" in payload:
                by_topic[row["topic"]].append((payload["from"], payload["n"]))
            elif row["topic"] is None or not row["topic"].startswith("inside "):
                if row["topic"] == "go":
                    by_topic["go"].append(("the driver", 0))
                else:
                    self.broken("M7", f"{one!r} was sent a message that was refused: {payload!r}.")
            if row["idempotency_key"] is not None:
                keys[row["idempotency_key"]] += 1
            if taken[row["id"]] != 1 and one in self.outputs:
                self.broken(
                    "M5", f"message {payload} to {one!r} ({row['topic']!r}) was taken by {taken[row['id']]} steps."
                )
            if (row["received_at"] is None) != (taken[row["id"]] == 0):
                self.broken("M5", f"message {payload} to {one!r} is marked otherwise than a step recorded it.")
        self.operations["message"] += len(self.facts.messages[one])
        strangers = set(taken) - {row["id"] for row in self.facts.messages[one]}
        if strangers:
            self.broken("M5", f"{one!r} took {len(strangers)} messages that are not there.")
        for key, count in keys.items():
            if count > 1:
                self.broken("M3", f"{count} messages to {one!r} have the idempotency key {key!r}.")
        for (destination, topic), senders in self.plan.mail.items():
            if destination == one:
                self._check_topic(one, topic, senders, by_topic[topic])

    def _check_topic(self, one: str, topic: str | None, senders: Counter[str], stored: list[Any]) -> None:
        truth = {sender: list(range(count)) for sender, count in senders.items()}
        what = f"topic {topic!r} of {one!r}"
        lost, twice, order = "M1/M2", "M1/M5", "M4"
        if topic is not None and topic.startswith(tuple(TALKS)):
            lost = twice = order = TALKS[topic.split()[0]]
        if by_sender(sorted(stored) if topic == "later" else stored) != truth:
            self.broken(lost, f"in {what} there are {by_sender(stored)} and sent were {truth}.")
        if one not in self.outputs:
            return
        if topic == "go":
            received = [("the driver", 0) for _ in self.received[one, topic]]
        else:
            received = [(message["from"], message["n"]) for message in self.received[one, topic]]
        if topic is not None and topic.startswith(("pair ", "later")):
            # Two receives side by side may come to their messages in either order, and delayed messages come when they are due.
            received.sort()
            stored = sorted(stored)
        if Counter(received) != Counter(stored):
            self.broken(twice, f"in {what} received were {received} and stored are {stored}.")
        elif by_sender(received) != truth:
            self.broken(order, f"in {what} messages were received out of order: {received}.")

    def _check_order_outside(self) -> None:
        numbers = {
            (message.destination_id, message.message["from"], message.message["n"]): message.idempotency_key
            for calls in self.plan.outside.values()
            for call in calls
            for message in call.messages
        }
        for one in self.plan.programs:
            latest = 0.0
            received = [m for m in self.received[one, "out"] if isinstance(m, dict)]
            for message in reversed(received):
                key = numbers.get((one, message["from"], message["n"]))
                first_called, returned = self.watched.sent.get(key or "", (0.0, 0.0))
                if latest and first_called > latest:
                    self.broken("M4", f"{one!r} received a message before one whose send had returned earlier.")
                latest = min(latest or returned, returned)
