"""Whether the books of the fault suite's bank are right: one sentence for each way in which T1 (or T2) was broken."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

from tests.chaos.bank import ACCOUNTS, CENTS_EACH, TELLERS, Transfer, teller_of
from tests.chaos.facts import NOTES, by

ACCOUNTS_NOW = """
    select id, cents, (select coalesce(sum(cents), 0)::bigint from bank.entries where account = id) as entered
    from bank.accounts order by id
"""
CLERK = "select status, output::text from dbos_async.workflows where id = $1"
STEPS = "select key, output::text, error::text from dbos_async.steps where workflow_id = $1 and verb = 'step' order by number"
CONFIRMATIONS = "select payload::text from dbos_async.messages where destination_id = $1 order by seq"
ENTRIES = "select number, transfer, account, cents, token from bank.entries where transfer = any ($1) order by number"
RECEIPTS = "select transfer, token, workflow_id from bank.receipts"
RECEIPT_WORKFLOWS = """
    select id, input::text, status, parent_id from dbos_async.workflows where name = 'bank receipt'
"""
TELLER = "select status, output::text, generation from dbos_async.workflows where id = $1"

REASONS = re.compile(
    r"the fault suite refuses this|permission denied|relation .* does not exist|lock timeout|statement timeout|deadlock detected"
    r"|could not serialize access|accounts_cents_check"
)
"""Why a transfer may be left undone: the database has refused what its body did. A lost connection or a full server is none."""


class Reader(Protocol):
    """What asks the database."""

    async def fetch(self, sql: str, /, *arguments: Any) -> list[Any]:
        """The rows of a statement."""
        ...


async def check_accounts(reader: Reader) -> list[str]:
    """At any moment the balances are what was entered."""
    return [
        f"T1: account {row['id']} has {row['cents']} cents, began with {CENTS_EACH}, and {row['entered']} are entered."
        for row in await reader.fetch(ACCOUNTS_NOW)
        if row["cents"] != CENTS_EACH + row["entered"]
    ]


class ClerkCheck:
    """One clerk that has ended, and its transfers."""

    def __init__(self, reader: Reader, one: str, transfers: Sequence[Transfer]) -> None:
        self._reader, self._one, self._transfers = reader, one, transfers
        self.violations: list[str] = []
        self.operations: Counter[str] = Counter()

    async def check(self) -> None:
        """Look into everything that it has left."""
        (row,) = await self._reader.fetch(CLERK, self._one)
        if row["status"] != "SUCCESS":
            return self._broken(f"clerk {self._one!r} should have ended with success and is {row['status']}")
        told = json.loads(row["output"])
        for note in await self._reader.fetch(NOTES, [self._one]):
            if note["what"] != "status":
                self.violations.append(f"{note['what']} ({self._one!r} {note['detail'] or ''}).")
        entries = by(await self._reader.fetch(ENTRIES, [t["id"] for t in self._transfers]), "transfer")
        steps = await self._reader.fetch(STEPS, self._one)
        if len(steps) != len(self._transfers):
            return self._broken(
                f"clerk {self._one!r} has records of {len(steps)} of {len(self._transfers)} transactions"
            )
        for transfer, step in zip(self._transfers, steps, strict=True):
            self._check_transfer(transfer, step, entries[transfer["id"]], told["withdrawn"].get(transfer["id"]))
        stored = [json.loads(row["payload"]) for row in await self._reader.fetch(CONFIRMATIONS, self._one)]
        self._check_confirmations(entries, stored, told["deposited"])
        self._check_order(entries)

    def _check_transfer(self, transfer: Transfer, step: Any, entries: list[Any], told: str | None) -> None:
        """Its rows are there with the record of its step, exactly once; or neither, and an error."""
        what = f"transfer {transfer['id']!r} ({transfer['how']})"
        sides = [(row["account"], row["cents"]) for row in entries]
        truth = [(transfer["source"], -transfer["cents"]), (transfer["target"], transfer["cents"])]
        if step["error"] is not None:
            kind = json.loads(step["error"])["type"]
            self.operations[f"failed transfer: {kind.rpartition(':')[2]}"] += 1
            if entries or told is not None:
                self._broken(f"{what} has failed with {kind}, and entered are {sides}")
            if transfer["how"] != "fails" and not REASONS.search(step["error"]):
                self._broken(f"{what} has failed with {step['error'][:300]}")
            return
        self.operations[f"transfer, {transfer['how']}"] += 1
        if transfer["how"] == "fails":
            self._broken(f"{what} should have failed")
        if sides != truth:
            return self._broken(f"{what} is {truth}, and entered are {sides}")
        recorded = json.loads(step["output"])
        if {recorded, told} != {entries[0]["token"]}:
            self._broken(
                f"{what} is entered by {entries[0]['token']}, recorded as {recorded}, and its clerk saw {told}"
            )

    def _check_confirmations(self, entries: dict[str, list[Any]], stored: list[Any], told: list[Any]) -> None:
        """Each deposit by a teller has told the clerk, once, by the commit that entered it."""
        direct = {transfer["id"] for transfer in self._transfers if transfer["how"] == "one commit"}
        truth = {
            (row["transfer"], row["token"])
            for rows in entries.values()
            for row in rows
            if row["cents"] > 0 and row["transfer"] not in direct
        }
        for where, messages in (("stored", stored), ("received", told)):
            found = [(message["id"], message["token"]) for message in messages]
            if sorted(found) != sorted(truth):
                self._broken(f"clerk {self._one!r} was told of {sorted(truth)}, and {where} are {sorted(found)}")

    def _check_order(self, entries: dict[str, list[Any]]) -> None:
        """A teller deposits what one clerk has sent to it in that order, whatever generation it is (T2)."""
        numbers: defaultdict[str, list[int]] = defaultdict(list)
        for transfer in self._transfers:
            if transfer["how"] != "one commit":
                numbers[teller_of(transfer["target"])] += [
                    row["number"] for row in entries[transfer["id"]] if row["cents"] > 0
                ]
        for teller, found in numbers.items():
            if found != sorted(found):
                self.violations.append(f"M4/T2: {teller} has deposited what {self._one!r} had sent out of order.")

    def _broken(self, sentence: str) -> None:
        self.violations.append(f"T1: {sentence}.")


async def check_books(reader: Reader, transfers: dict[str, Transfer]) -> tuple[list[str], Counter[str]]:
    """What must hold when everything has ended: no money is lost, and every deposit has one receipt, of the same commit."""
    violations, operations = await check_accounts(reader), Counter[str]()
    total = sum(row["cents"] for row in await reader.fetch(ACCOUNTS_NOW))
    if total != ACCOUNTS * CENTS_EACH:
        violations.append(f"T1: the bank began with {ACCOUNTS * CENTS_EACH} cents and has {total}.")
    entries = await reader.fetch("select number, transfer, account, cents, token from bank.entries order by number")
    counts = Counter((row["transfer"], row["cents"] > 0) for row in entries)
    for one in dict.fromkeys(row["transfer"] for row in entries):
        sides = counts[one, False], counts[one, True]
        if sides != (1, 1) or one not in transfers:
            violations.append(f"T1: transfer {one!r} has {sides[0]} withdrawals and {sides[1]} deposits.")
    deposits = [
        row
        for row in entries
        if row["cents"] > 0 and row["transfer"] in transfers and transfers[row["transfer"]]["how"] != "one commit"
    ]
    truth = sorted((row["transfer"], row["token"]) for row in deposits)
    receipts = await reader.fetch(RECEIPTS)
    if sorted((row["transfer"], row["token"]) for row in receipts) != truth:
        violations.append(f"T1: there are {len(receipts)} receipts that are not those of the {len(truth)} deposits.")
    workflows = await reader.fetch(RECEIPT_WORKFLOWS)
    if sorted(row["id"] for row in workflows) != sorted(row["workflow_id"] for row in receipts):
        violations.append(f"T1: {len(workflows)} workflows have written {len(receipts)} receipts.")
    per_teller = Counter(teller_of(row["account"]) for row in deposits)
    for one in (f"teller {number}" for number in range(TELLERS)):
        (row,) = await reader.fetch(TELLER, one)
        if row["status"] != "SUCCESS" or json.loads(row["output"]) != per_teller[one]:
            violations.append(
                f"T1/T2: {one} is {row['status']}, counted {row['output']} deposits, and {per_teller[one]} are entered."
            )
        operations["generation of a teller"] += row["generation"]
    operations["deposit with its message and its receipt"] += len(deposits)
    return violations, operations
