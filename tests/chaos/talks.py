"""Whether the conversations of a wave were as promised (C1 to C4)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

from tests.chaos.facts import length_of
from tests.chaos.messages import MessageChecks
from tests.chaos.plan_types import Instruction

COMMITTED_LATE_SECONDS = 0.25
"""A message that was stored so short a time before it was due may have been committed when later ones were on their way."""


class TalkChecks(MessageChecks):
    """The checks of conversations."""

    def _check_received(self, one: str, topic: str | None, messages: list[Any], known: dict[str, int]) -> None:
        raise NotImplementedError

    def _check_outcome(self, one: str, instruction: Instruction, saw: Any) -> None:
        raise NotImplementedError

    def _has_entry(self, entry: str, tag: str, promise: str, what: str) -> None:
        raise NotImplementedError

    def _check_talk(self, one: str, instruction: Instruction, saw: Any, known: dict[str, int]) -> None:
        match instruction["do"]:
            case "first":
                self._check_first(one, instruction, saw, known)
            case "started":
                self._check_started(one, instruction, saw)
            case "ask":
                self._check_answers(repr(one), instruction, saw)
            case "desk":
                self._check_desk(one, instruction, saw)
            case "watch":
                self._check_versions(repr(one), instruction["of"], saw, is_whole=not instruction["most"])
            case "merge":
                self._check_merged(repr(one), [tuple(place) for place in instruction["streams"]], saw)
            case "moments":
                self._check_moments(one, saw)

    # C1

    def _check_first(self, one: str, instruction: Instruction, saw: list[Any], known: dict[str, int]) -> None:
        recorded = {
            str(row["message_id"]): row
            for row in self.facts.steps[one]
            if row["verb"] == "wait_first" and row["message_id"]
        }
        versions: list[int] = []
        for won in saw:
            if won[0] == "event":
                versions.append(won[2])
                self._check_version(f"wait_first of {one!r}", instruction["of"], won[1], won[2], "C1")
            elif won[0] != "cancelled":
                topic, payload, message_id, index = won
                self._check_received(one, topic, [payload], known)
                row = recorded.get(message_id)
                found = None if row is None else json.loads(row["output"])
                if found is None or found["index"] != index or found["value"]["payload"] != payload:
                    self.broken("C1", f"{one!r} saw wait {index} win with {payload}, and what is recorded is {found}.")
        if versions != sorted(set(versions)):
            self.broken("C1", f"wait_first of {one!r} brought the versions {versions} one after the other.")
        counts = Counter(won[0] for won in saw if won[0] not in ("event", "cancelled"))
        if counts != Counter(instruction["topics"]):
            self.broken(
                "C1", f"the topics of a loop of {one!r} brought {counts}, and it counted {instruction['topics']}."
            )
        if ["cancelled", instruction["tag"]] not in saw:
            self.broken("C1", f"a step of {one!r} that was cancelled on record has another outcome.")

    def _check_started(self, one: str, instruction: Instruction, saw: dict[str, str]) -> None:
        if "cancelled" not in saw:
            self._check_outcome(one, instruction, saw)
        elif not instruction["cancels"]:
            self.broken("C1", f"step {instruction['tag']!r} of {one!r} was cancelled by nobody.")

    # C2

    def _question(self, ask: Instruction) -> Any:
        value = ask["value"]
        for row in self.facts.messages[ask["to"]]:
            payload = json.loads(row["payload"])
            if isinstance(payload, dict) and (payload.get("from"), payload.get("n")) == (value["from"], value["n"]):
                return row
        return None

    def _check_answers(self, who: str, ask: Instruction, saw: list[Any]) -> None:
        value, row = ask["value"], self._question(ask)
        tag = f"{value['from']}/{value['n']}"
        if row is None:
            self.broken("C2", f"the question {tag} of {who} is not there.")
            return
        stored = (
            ["answer", json.loads(row["answer"])]
            if row["answer"] is not None
            else ["refused", json.loads(row["answer_error"])["args"][0]]
            if row["answer_error"] is not None
            else ["nothing"]
        )
        if (stored[0] == "refused") != (value["how"] == "refuse"):
            self.broken("C2", f"the question {tag} of {who} should be answered by {value['how']!r} and has {stored}.")
        for got in saw:
            if got != stored:
                self.broken("C2", f"{who} got {got} as the answer to {tag}, and stored is {stored}.")
            if got[0] == "answer" and got[1]["tag"] != tag:
                self.broken("C2", f"{who} got {got[1]} as the answer to {tag}.")
        self.operations["answer"] += len(saw)

    def _check_desk(self, one: str, instruction: Instruction, saw: list[Any]) -> None:
        self._check_received(one, instruction["topic"], [value for value, *_ in saw], {})
        for value, told, *counts in saw:
            if counts not in ([True], [True, False]):
                self.broken("C2", f"{one!r} was told {counts} when it answered {value}.")
            if value["how"] == "step":
                self._has_entry(told["entry"], told["tag"], "C2", f"an answer of {one!r}")

    # C3

    def _check_version(self, who: str, of: str, n: int, version: int, promise: str) -> None:
        if (n, version) not in self._versions_of(of):
            self.broken(promise, f"{who} brought value {n} of {of!r} as version {version}, which was never set.")

    def _versions_of(self, of: str) -> set[tuple[int, int]]:
        return {(json.loads(row["value"])["n"], row["seq"]) for row in self.facts.events[of] if row["key"] == "e"}

    def _check_versions(self, who: str, of: str, saw: list[Any], *, is_whole: bool) -> None:
        versions = [version for _, version in saw]
        if versions != sorted(set(versions)):
            self.broken("C3", f"{who} watched {of!r} and saw the versions {versions}.")
        for n, version in saw:
            self._check_version(f"watching of {who}", of, n, version, "C3")
        last = max((version for _, version in self._versions_of(of)), default=0)
        if is_whole and of not in self.plan.victims and (not versions or versions[-1] != last):
            self.broken("C3", f"{who} watched {of!r} to its end, saw {versions} and never the last version {last}.")
        self.operations["version that was watched"] += len(saw)

    def _check_merged(self, who: str, places: list[tuple[str, str]], saw: list[Any]) -> None:
        found: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for of, key, offset, n in saw:
            found[of, key].append((offset, n))
        for of, key in places:
            truth = [(n, n) for n in range(length_of(self.programs[of], key))]
            parts = found.pop((of, key), [])
            if parts != truth and not (of in self.plan.victims and parts == truth[: len(parts)]):
                self.broken("C3", f"{who} read {parts} of stream {key!r} of {of!r} among others, which is {truth}.")
        if found:
            self.broken("C3", f"{who} read streams that were not asked for: {list(found)}.")
        self.operations["value of merged streams"] += len(saw)

    # C4

    def _check_later(self, one: str) -> None:
        delayed = [row for row in self.facts.messages[one] if row["due_at"] is not None]
        if self.watched.clock_moved:
            return
        for row in delayed:
            if row["received_at"] is not None and row["received_at"] < row["due_at"]:
                self.broken(
                    "C4", f"{one!r} received {row['payload']} at {row['received_at']}, and due is {row['due_at']}."
                )
        before: Any = None
        for row in delayed:  # in the order of their places in the queue
            if (row["due_at"] - row["noted_at"]).total_seconds() < COMMITTED_LATE_SECONDS:
                continue
            if before is not None and (before["due_at"], before["due_seq"]) > (row["due_at"], row["due_seq"]):
                self.broken(
                    "C4",
                    f"to {one!r} {before['payload']} came before {row['payload']}, which was due earlier: "
                    f"{before['due_at']} and {row['due_at']}, sent as {before['due_seq']} and {row['due_seq']}.",
                )
            before = row
        self.operations["delayed message"] += len(delayed)

    def _check_start(self, one: str) -> None:
        """A delayed workflow did nothing before its time."""
        due_at = self.facts.workflows[one]["due_at"]
        if due_at is None or self.watched.clock_moved or one in self.plan.victims:
            return
        began = min((row["completed_at"] for row in self.facts.steps[one] if row["completed_at"]), default=due_at)
        if began < due_at:
            self.broken("C4", f"{one!r} was to begin at {due_at} and did something at {began}.")
        self.operations["delayed start"] += 1

    def _check_moments(self, one: str, saw: list[Any]) -> None:
        before, random, uuid, after = saw
        recorded = [row["output"] for row in self.facts.steps[one] if row["verb"] in ("random", "uuid")]
        if json.dumps(uuid) not in recorded or not any(json.loads(text) == random for text in recorded):
            self.broken("W2", f"{one!r} was given {random} and {uuid}, and recorded is something else.")
        if after < before and not self.watched.clock_moved:
            self.broken("W2", f"the time of {one!r} went back from {before} to {after}.")

    def _check_talks_outside(self) -> None:
        for ask, answers in self.watched.answers:
            self._check_answers("the driver", ask, answers)
        for one, versions in self.watched.versions.items():
            self._check_versions("the driver", one, versions, is_whole=True)
        for places, parts in self.watched.merged.items():
            self._check_merged("the driver", list(places), parts)
