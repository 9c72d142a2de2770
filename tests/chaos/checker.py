"""Compares what every workflow saw, and what the tables hold, with every promise; one sentence for each violation."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from dbos_async._runs.run import RUNS_OF_ONE
from tests.chaos.direct import Direct
from tests.chaos.facts import (
    ENTRIES,
    EVENTS,
    LEDGER,
    MESSAGES,
    NOTES,
    STEPS,
    WORKFLOWS,
    Facts,
    Verdict,
    Watched,
    blocks_of,
    by,
    length_of,
    verbs_of,
)
from tests.chaos.plan_types import Instruction, Plan, Program, walk
from tests.chaos.talks import TalkChecks


async def check(direct: Direct, plan: Plan, watched: Watched) -> Verdict:
    """Judge one wave."""
    workflows = {row["id"]: row for row in await direct.fetch(WORKFLOWS, list(plan.programs))}
    ids = list(workflows)
    facts = Facts(
        workflows,
        by(await direct.fetch(STEPS, ids), "workflow_id"),
        by(await direct.fetch(MESSAGES, ids), "destination_id"),
        by(await direct.fetch(EVENTS, ids), "workflow_id"),
        by(await direct.fetch(ENTRIES, ids), "workflow_id"),
        by(await direct.fetch(LEDGER, ids), "workflow_id"),
        by(await direct.fetch(NOTES, ids), "workflow_id"),
    )
    return _Checker(plan, watched, facts).check()


class _Checker(TalkChecks):
    def check(self) -> Verdict:
        for one in self.plan.programs:
            self._find(one)
        for one, program in self.plan.started.items():
            self.programs[one] = program
            self._find(one)
        for one, program in self.programs.items():
            if one in self.outputs:
                self._check_observations(one, program)
                self._check_steps(one, program)
                self._check_events(one, program)
                self._check_streams(one, program)
                self._check_runs(one, program)
                self._check_start(one)
        for one in (*self.plan.programs, *self.plan.started):
            self._check_messages(one)
            self._check_later(one)
        self._check_order_outside()
        self._check_talks_outside()
        self._check_watched()
        workflows = self.facts.workflows.values()
        strangers = set(self.facts.workflows) - set(self.programs)
        if strangers and not self.violations:
            self.broken(
                "W1", f"there are {len(strangers)} workflows that nobody started, for example {min(strangers)!r}."
            )
        self.operations["start"] += len(self.plan.programs)
        return Verdict(
            self.violations, self.operations, len(self.programs), sum(w["attempt"] % RUNS_OF_ONE - 1 for w in workflows)
        )

    def _find(self, one: str) -> None:
        row, program = self.facts.workflows.get(one), self.programs[one]
        if row is None:
            self.broken("W1", f"workflow {one!r} was started, and there is none of its id.")
            return
        ends = Counter(note["detail"] for note in self.facts.notes[one] if note["what"] == "status")
        if row["status"] != "SUCCESS":
            self.broken("W2", f"workflow {one!r} should have ended with success and is {row['status']}.")
        elif ends["SUCCESS"] != 1:
            self.broken("W3", f"workflow {one!r} ended {ends['SUCCESS']} times.")
        for note in self.facts.notes[one]:
            if note["what"] != "status":
                self.violations.append(f"{note['what']} ({one!r} {note['detail'] or ''}).")
        if row["status"] != "SUCCESS":
            return
        output = json.loads(row["output"])
        if len(output) != len(program):
            self.broken("W1", f"workflow {one!r} performed {len(output)} instructions and was given {len(program)}.")
            return
        self.outputs[one] = output
        for instruction, saw in zip(program, output, strict=True):
            if instruction["do"] == "start":
                if instruction["id"] not in (None, saw):
                    self.broken("W1", f"a child of {one!r} was to be {instruction['id']!r} and is {saw!r}.")
                self.programs[saw] = instruction["program"]
                self._find(saw)

    # What each instruction must have seen

    def _check_observations(self, one: str, program: Program) -> None:
        self._check_part(one, program, self.outputs[one], {}, {})

    def _check_part(
        self, one: str, program: Program, output: list[Any], known: dict[str, int], children: dict[str, str]
    ) -> None:
        for instruction, saw in zip(program, output, strict=True):
            match instruction["do"]:
                case "drain" | "pair":
                    self._check_received(one, instruction["topic"], saw, known)
                case "until_end":
                    self._check_received(one, instruction["topic"], saw[-1:], known)
                    for message in saw[:-1]:
                        self._has_entry(message["entry"], message["tag"], "M8", f"a message to {one!r} from a step")
                case "maybe":
                    if saw is not None:
                        self._check_received(one, instruction["topic"], [saw], known)
                case "get":
                    self._check_get(one, instruction["of"], saw, known)
                case "read":
                    self._check_read(one, instruction["of"], instruction["key"], instruction["offset"], saw)
                case "start":
                    children[instruction["name"]] = saw
                case "result":
                    child = children[instruction["name"]]
                    if child in self.outputs and saw != self.outputs[child]:
                        self.broken("W2", f"{one!r} got another result of its child {child!r} than that has.")
                case "send_astray" if saw != "WorkflowNotFoundError":
                    self.broken("M7", f"a send of {one!r} to nobody got {saw!r}.")
                case "close" if instruction["again"] and saw != "StreamClosedError":
                    self.broken("S4", f"a late write to {instruction['key']!r} of {one!r} got {saw!r}.")
                case "step":
                    self._check_outcome(one, instruction, saw)
                case "first" | "started" | "ask" | "desk" | "watch" | "merge" | "moments":
                    self._check_talk(one, instruction, saw, known)
                case "gather":
                    for branch, found in zip(instruction["branches"], saw, strict=True):
                        self._check_part(one, branch, found, dict(known), children)

    def _check_received(self, one: str, topic: str | None, messages: list[Any], known: dict[str, int]) -> None:
        self.received[one, topic] += messages
        for message in messages:
            if isinstance(message, dict) and "event" in message:
                sender = message["from"]
                known[sender] = max(known.get(sender, 0), message["event"])

    def _check_get(self, one: str, of: str, saw: int | None, known: dict[str, int]) -> None:
        if saw is None:
            if of not in self.plan.victims:
                self.broken("E3", f"{one!r} found no event of {of!r}, which had one before it ended.")
            return
        if saw < known.get(of, 0):
            self.broken("E2", f"{one!r} read value {saw} of {of!r} after it knew of {known[of]}.")
        known[of] = saw

    def _check_read(self, one: str, of: str, key: str, offset: int, saw: list[int]) -> None:
        truth = list(range(length_of(self.programs[of], key)))[offset:]
        if saw != truth and not (of in self.plan.victims and saw == truth[: len(saw)]):
            self.broken("S3", f"{one!r} read {saw} from stream {key!r} of {of!r}, which is {truth}.")

    def _check_outcome(self, one: str, instruction: Instruction, saw: Any) -> None:
        if saw["tag"] != instruction["tag"] or ("raised" in saw) != (instruction["kind"] == "failing"):
            self.broken("W2", f"step {instruction['tag']!r} of {one!r} has the outcome of another: {saw}.")
        self._has_entry(saw["entry"], saw["tag"], "W2", f"the outcome of a step of {one!r}")

    def _has_entry(self, entry: str, tag: str, promise: str, what: str) -> None:
        if (entry, tag) not in self._entries():
            self.broken(promise, f"{what} ({tag!r}) is of no body that ever ran.")

    def _entries(self) -> set[tuple[str, str]]:
        if not hasattr(self, "_known_entries"):
            self._known_entries = {(r["entry"], r["tag"]) for rows in self.facts.ledger.values() for r in rows}
        return self._known_entries

    # What the tables must say

    def _check_steps(self, one: str, program: Program) -> None:
        rows = self.facts.steps[one]
        numbers: defaultdict[str, list[int]] = defaultdict(list)
        entries: Counter[str] = Counter()
        verbs: Counter[str] = Counter()
        for row in rows:
            numbers[row["branch"]].append(row["number"])
            verbs[row["verb"]] += 1
            where = f"step {row['branch']}.{row['number']} ({row['verb']}) of {one!r}"
            if row["completed_at"] is None:
                self.broken("W2", f"{where} was never completed, and its workflow ended.")
            elif (
                row["verb"].startswith(("recv", "wait_first"))
                and row["message_id"] is None
                and (row["verb"] != "wait_first" or row["output"] is None)
                and (
                    row["deadline"] is None or (row["completed_at"] < row["deadline"] and not self.watched.clock_moved)
                )
            ):
                self.broken("M6", f"{where} timed out before its deadline.")
            if row["verb"] == "step":
                outcome = json.loads(row["output"] or row["error"])
                if row["error"] is not None and outcome["type"].endswith(":StepCancelledError"):
                    continue
                entries[outcome["entry"] if row["error"] is None else outcome["args"][1]] += 1
        for branch, found in numbers.items():
            if sorted(found) != list(range(1, len(found) + 1)):
                self.broken("W4", f"the steps of branch {branch!r} of {one!r} are numbered {sorted(found)}.")
        for entry, count in entries.items():
            if count > 1:
                self.broken("W2", f"the outcome {entry} of one step of {one!r} is recorded as {count} steps.")
        for verb, count in verbs_of(program).items():
            if verbs[verb] != count:
                self.broken("W2", f"{one!r} recorded {verbs[verb]} steps {verb} and its program has {count}.")
        bodies = self.facts.ledger[one]
        lost = {body["step"] for body in bodies} - {
            f"{row['branch']}.{row['number']}" if row["branch"] else str(row["number"])
            for row in rows
            if row["verb"] == "step"
        }
        if lost:
            self.broken("W2", f"the bodies of the steps {sorted(lost)} of {one!r} ran, and no such step is recorded.")
        self.operations.update(verbs)
        self.operations["bodies of steps"] += len(bodies)

    def _check_events(self, one: str, program: Program) -> None:
        written_values: defaultdict[str, list[Any]] = defaultdict(list)
        for row in self.facts.events[one]:
            written_values[row["key"]].append(json.loads(row["value"]))
        # Inside of a step a value may be set again, when the answer got lost, but not after a newer one.
        inside = list(blocks_of(value["entry"] for value in written_values.pop("inside", [])))
        if len(inside) != len(set(inside)):
            self.broken("E2/E5", f"a step of {one!r} put an older value of its event over a newer one: {inside}.")
        truth: defaultdict[str, list[int]] = defaultdict(list)
        for instruction in walk(program):
            if instruction["do"] == "set":
                truth[instruction["key"]].append(instruction["n"])
        found = {key: [value["n"] for value in values] for key, values in written_values.items()}
        if found != truth:
            self.broken("E2", f"the events of {one!r} were set to {found} and its program says {dict(truth)}.")

    def _check_streams(self, one: str, program: Program) -> None:
        rows = self.facts.entries[one]
        found: defaultdict[str, list[Any]] = defaultdict(list)
        closed: set[str] = set()
        for row in rows:
            if row["offset"] != len(found[row["key"]]):
                self.broken(
                    "S1",
                    f"stream {row['key']!r} of {one!r} has offset {row['offset']} after {len(found[row['key']])} values.",
                )
            if row["key"] in closed:
                self.broken("S4", f"stream {row['key']!r} of {one!r} goes on after it was closed.")
            if row["closes"]:
                closed.add(row["key"])
            else:
                found[row["key"]].append(json.loads(row["value"]))
        blocks = list(blocks_of(value["entry"] for value in found.pop("inside", [])))
        if len(blocks) != len(set(blocks)):
            self.broken("W3", f"a step of {one!r} wrote to its stream after a later attempt of it had begun.")
        truth = {i["key"]: list(range(length_of(program, i["key"]))) for i in walk(program) if i["do"] == "write"}
        written = {key: [value["n"] for value in values] for key, values in found.items()}
        if written != truth:
            self.broken("S2", f"the streams of {one!r} hold {written} and its program writes {truth}.")
        closes = {instruction["key"] for instruction in walk(program) if instruction["do"] == "close"}
        if closed != closes:
            self.broken("S4", f"of {one!r} the streams {closed} are closed and its program closes {closes}.")

    def _check_watched(self) -> None:
        for one, values in self.watched.events.items():
            if values != sorted(values):
                self.broken("E2", f"seen from outside the event of {one!r} went backwards: {values}.")
            self.operations["get_event outside"] += len(values)
        for (one, key), numbers in self.watched.streams.items():
            truth = list(range(length_of(self.programs[one], key)))
            if numbers != truth:
                self.broken("S3", f"read from outside, stream {key!r} of {one!r} was {numbers} and is {truth}.")
            self.operations["read_stream outside"] += 1
        for one, result in self.watched.results.items():
            if one in self.outputs and result != self.outputs[one]:
                self.broken("W2", f"get_result of {one!r} gave another result than is stored.")
            self.operations["get_result outside"] += 1

    def _check_runs(self, one: str, program: Program) -> None:
        """What was written one after the other was written by one run, then the next: never by an earlier one again."""
        sent: dict[tuple[str, str, int], str] = {}
        for instruction in walk(program):
            for send in [instruction] if instruction["do"] == "send" else instruction.get("messages", []):
                sent[send["to"], str(send["topic"]), send["value"]["n"]] = ""
        for destination in {to for to, _, _ in sent}:
            for row in self.facts.messages[destination]:
                payload = json.loads(row["payload"])
                if isinstance(payload, dict) and payload.get("from") == one:
                    sent[destination, str(row["topic"]), payload["n"]] = payload["run"]
        written_values: dict[tuple[str, str, int], str] = {}
        for kind, rows in (("set", self.facts.events[one]), ("write", self.facts.entries[one])):
            for row in rows:
                value = json.loads(row["value"]) if row["value"] is not None else {}
                if "run" in value:
                    written_values[kind, row["key"], value["n"]] = value["run"]

        def runs_of(program: Program, output: list[Any]) -> Iterator[str]:
            for instruction, saw in zip(program, output, strict=True):
                match instruction["do"]:
                    case "step":
                        yield saw["run"]
                    case "send":
                        yield sent.get((instruction["to"], str(instruction["topic"]), instruction["value"]["n"]), "")
                    case "set":
                        yield written_values.get(("set", instruction["key"], instruction["n"]), "")
                    case "write":
                        for n in range(instruction["from"], instruction["to"]):
                            yield written_values.get(("write", instruction["key"], n), "")
                    case "gather":
                        for branch, found in zip(instruction["branches"], saw, strict=True):
                            blocks = list(blocks_of(runs_of(branch, found)))
                            if len(blocks) != len(set(blocks)):
                                self.broken(
                                    "W3",
                                    f"in a branch of {one!r} a run went on after its successor had begun: {blocks}.",
                                )

        blocks = list(blocks_of(runs_of(program, self.outputs[one])))
        if len(blocks) != len(set(blocks)):
            self.broken("W3", f"a run of {one!r} went on after its successor had begun: {blocks}.")
