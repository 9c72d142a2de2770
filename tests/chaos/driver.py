"""Drives waves of workflows from outside while the nemesis rages, and has each wave checked when it has ended."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import asyncpg

from dbos_async import DBOSClient, SendMessage, SetStartDelay, SetWorkflowID, Start
from dbos_async._database import migrations
from dbos_async._database.access import find_schema
from dbos_async._database.names import Names
from tests.chaos import neighbour
from tests.chaos.bank import TABLES
from tests.chaos.banking import Bank
from tests.chaos.calls import open_client, persist
from tests.chaos.checker import check
from tests.chaos.direct import Direct
from tests.chaos.executor import Executor
from tests.chaos.facts import PREPARE, Tally, Watched
from tests.chaos.ground import APPLICATION, CLOCK, LIVES, RIGHTS
from tests.chaos.liveness import Liveness
from tests.chaos.nemesis import Nemesis
from tests.chaos.outside import Listeners
from tests.chaos.plan import make_plan
from tests.chaos.plan_types import GO, Plan
from tests.chaos.races import Races
from tests.chaos.services import Services
from tests.chaos.troubles import SMALL_QUEUE
from tests.chaos.ways import PoolerUse, Proxies, Ways, ways_to
from tests.support.postgres import LOSES_NOTHING, Server

log = logging.getLogger("chaos")

PENDING = """
    select id, status from dbos_async.workflows
    where (id = any ($1) or parent_id = any ($1)) and status <> 'SUCCESS' and status <> 'ERROR'
"""


class Campaign:
    """One server, some executors, one client, one nemesis."""

    def __init__(self, ways: Ways, executors: Sequence[Executor], client: Proxies, direct: Direct, seed: int) -> None:
        self.tally = Tally()
        self.nemesis = Nemesis(executors, client, ways, direct, seed, self.tally)
        self.executors = executors
        self.direct = direct
        self.neighbour: neighbour.Neighbour | None = None
        """The other application of this database, if there is one."""
        self._seed = seed
        self.way = client.way
        self._races = Races(direct, executors[0].bodies, seed, self.tally)
        self._bank = Bank(direct, seed, self.tally)
        self._liveness = Liveness(
            ways.server.url, executors[0].runs, self.nemesis.absences, self.nemesis.is_calm, self.tally
        )
        self._watching = asyncio.create_task(self._liveness.watch(), name="liveness")

    async def race(self, is_over: Callable[[], bool]) -> None:
        """Have random programs played until it is over. Each is replayed and checked as soon as it has ended."""
        async with open_client(self.way, self.tally) as client:
            await self._races.play(client, is_over)

    async def trade(self, is_over: Callable[[], bool]) -> None:
        """Have the bank move money until it is over."""
        async with open_client(self.way, self.tally) as client:
            await self._bank.trade(client, is_over)

    async def live_beside(self, is_over: Callable[[], bool]) -> None:
        """Let the other application work until it is over."""
        if self.neighbour is not None:
            await self.neighbour.play(is_over)

    async def wave(self, number: int, size: int, *, give_up_after_seconds: float = 90.0) -> None:
        """Start a wave, bring it to its end, and check it."""
        plan, watched = make_plan(self._seed, number, size), Watched()
        self._liveness.disturbed.update(plan.victims)
        if self.neighbour is not None:
            self.neighbour.use(list(plan.programs))
        troubles, waves = self.nemesis.troubles, self.nemesis.transactions.plans
        moves = troubles.clock_moves
        waves.append(plan)
        async with open_client(self.way, self.tally) as client:
            wave = _Wave(self, client, self.direct, plan, watched, Random(f"{self._seed}/{number} outside"))
            await self._bring_to_its_end(wave, number, give_up_after_seconds)
        waves.remove(plan)
        watched.clock_moved = troubles.clock_moves != moves or troubles.clock_moves % 2 == 1
        verdict = await check(self.direct, plan, watched)
        self.tally.operations += verdict.operations
        self.tally.violations += verdict.violations
        self.tally.workflows += verdict.workflows
        self.tally.takeovers += verdict.takeovers
        self.tally.waves += 1

    async def _bring_to_its_end(self, wave: _Wave, number: int, give_up_after_seconds: float) -> None:
        await wave.start()
        work = asyncio.gather(wave.send_from_outside(), wave.cancel_and_resume(), wave.watch(), wave.listen())
        has_ended = await wave.has_ended(give_up_after_seconds)
        if not has_ended:
            log.info("Wave %d takes long: let there be peace.", number)
            await self.nemesis.make_peace()
            has_ended = await wave.has_ended(give_up_after_seconds)
            if not has_ended:
                self.tally.violations += await wave.what_is_left()
                work.cancel()
            self.nemesis.go_on()
        await asyncio.gather(work, return_exceptions=True)
        if has_ended:
            work.result()
            await wave.ask_for_results()

    async def finish(self) -> Tally:
        """Shut every executor down, and add up."""
        await self.nemesis.make_peace()
        self._watching.cancel()
        async with open_client(self.way, self.tally) as client:
            services = Services(self.executors, self.nemesis, self._liveness, self.direct, self.tally)
            await services.check(client)
        for executor in self.executors:
            self.nemesis.absences.gone(executor.name)
            if executor.process is not None and executor.process.returncode is not None:
                self.tally.violations.append(f"D4: {executor.name} ended by itself with {executor.process.returncode}.")
            elif not await executor.stop():
                self.tally.violations.append(f"W5: {executor.name} did not shut down within a minute.")
            self.tally.violations += executor.complaints()
        await self._races.check_late_bodies()
        self.tally.violations += self.nemesis.violations
        self.tally.faults = self.nemesis.faults
        return self.tally


async def prepare(ways: Ways, names: Sequence[str], *, with_neighbour: bool = False) -> None:
    """Make the tables, what watches over them, and a role for each executor and the client."""
    # The search path of the database counts for the second connection, and for what that makes.
    for commands in ([CLOCK], [PREPARE, TABLES, LIVES, RIGHTS, ways.roles(*names, "client", neighbour.ROLE)]):
        connection = await asyncpg.connect(ways.server.url)
        try:
            if CLOCK not in commands:
                await migrations.migrate(connection, Names(find_schema(None)))
            for command in commands:
                await connection.execute(command)
            if CLOCK not in commands and with_neighbour:
                await migrations.migrate(connection, Names(neighbour.SCHEMA), grant_to=APPLICATION)
        finally:
            await connection.close()


@asynccontextmanager
async def campaign(
    seed: int, executors: int, *, with_neighbour: bool = False, pooler: PoolerUse | None = None
) -> AsyncIterator[Campaign]:
    """Everything that a run needs, with another application or not, through a pooler or not; nothing is left afterwards."""
    server = Server(*LOSES_NOTHING, *SMALL_QUEUE)
    await server.create()
    folder = Path(tempfile.mkdtemp(prefix="dbos-chaos-logs-"))
    names = [f"executor-{number}" for number in range(executors)]
    running: list[Executor] = []
    closing = AsyncExitStack()
    try:
        ways = await closing.enter_async_context(ways_to(server, pooler))
        direct, client = Direct(server.url), Proxies(ways.of("client"))
        closing.push_async_callback(direct.close)
        closing.push_async_callback(client.close)
        await prepare(ways, names, with_neighbour=with_neighbour)
        await client.open()
        for name in names:
            running.append(Executor(name, ways, folder))
            await running[-1].start()
        suite = Campaign(ways, running, client, direct, seed)
        async with AsyncExitStack() as stack:
            if with_neighbour:
                suite.neighbour = neighbour.Neighbour(ways.of(neighbour.ROLE), suite.tally)
                stack.push_async_callback(suite.neighbour.close)
                await suite.neighbour.open()
            yield suite
        if suite.tally.violations:
            log.info("The logs of the executors are in %s.", folder)
        else:
            shutil.rmtree(folder)
    finally:
        for executor in running:
            if executor.process is not None and executor.process.returncode is None:
                executor.process.kill()
                await executor.process.wait()
            await executor.proxies.close()
        await closing.aclose()
        await server.remove()


class _Wave:
    def __init__(
        self, campaign: Campaign, client: DBOSClient, direct: Direct, plan: Plan, watched: Watched, random: Random
    ) -> None:
        self._tally = campaign.tally
        self._client, self._direct = client, direct
        self._plan, self._watched, self._random = plan, watched, random
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Start every workflow, some of them twice, and send each the message ``go``."""
        limit = asyncio.Semaphore(20)

        async def start(one: str, program: list[Any]) -> None:
            async with limit:
                await self._persist(lambda: self._start(one, program), limited="start")
                if self._random.random() < 0.1:  # somebody else comes too late with other arguments
                    await self._persist(lambda: self._start(one, []), limited="start")

        programs, by_go = self._plan.programs, self._plan.started_by_go
        await asyncio.gather(*(start(one, program) for one, program in programs.items() if one not in by_go))
        for one in by_go:
            call = Start("chaos", programs[one])
            for _ in range(2):
                await self._persist(
                    lambda one=one, call=call: self._client.send(one, "go", GO, idempotency_key="go", start=call),  # type: ignore[misc]  # it is called at once
                    limited="send",
                )
        go = [SendMessage(one, "go", GO, idempotency_key="go") for one in programs if (one, GO) in self._plan.mail]
        await self._persist(lambda: self._client.send_bulk(go), limited="send_bulk")

    async def _start(self, one: str, program: list[Any]) -> None:
        with SetWorkflowID(one), SetStartDelay(self._plan.late.get(one)):
            await self._client.start_workflow("chaos", program)
        self._tally.operations["start outside"] += 1

    async def send_from_outside(self) -> None:
        """Two senders, each of which sends its messages one after the other, and repeats what may not have happened."""
        await asyncio.gather(*(self._send(sender) for sender in self._plan.outside))

    async def _send(self, sender: str) -> None:
        loop = asyncio.get_running_loop()
        for call in self._plan.outside[sender]:
            called = loop.time()
            if len(call.messages) == 1:
                (m,) = call.messages
                key = m.idempotency_key
                await self._persist(
                    lambda m=m, key=key: self._client.send(m.destination_id, m.message, m.topic, idempotency_key=key),  # type: ignore[misc]  # it is called at once
                    limited="send",
                )
            else:
                await self._persist(lambda call=call: self._client.send_bulk(call.messages), limited="send_bulk")  # type: ignore[misc]  # it is called at once
            for message in call.messages:
                self._watched.sent[message.idempotency_key or ""] = called, loop.time()
            self._tally.operations["send outside"] += 1
            await asyncio.sleep(self._random.uniform(0, 0.1))

    async def cancel_and_resume(self) -> None:
        """Cancel every victim at some moment, and resume it a little later."""

        async def torment(one: str) -> None:
            await asyncio.sleep(self._random.uniform(0, 8))
            await self._persist(lambda: self._client.cancel_workflow(one), limited="cancel")
            await asyncio.sleep(self._random.uniform(0, 2))
            await self._persist(lambda: self._client.resume_workflow(one), limited="resume")
            self._tally.operations["cancel and resume outside"] += 1

        await asyncio.gather(*(torment(one) for one in self._plan.victims))

    async def watch(self) -> None:
        """Follow some events and streams from outside for as long as the wave lasts."""
        calm = self._calm()
        followed = self._random.sample(calm, min(len(calm), 10))
        await asyncio.gather(
            *(self._watch_event(one) for one in followed), *(self._watch_stream(one) for one in followed)
        )

    async def listen(self) -> None:
        """Ask, watch and merge from outside for as long as the wave lasts."""
        calm = self._calm()
        listeners = Listeners(self._client, self._plan, self._watched, self._persist)
        await listeners.listen(self._random.sample(calm, min(len(calm), 6)))

    def _calm(self) -> list[str]:
        return [one for one in self._plan.programs if one not in self._plan.victims and (one, GO) in self._plan.mail]

    async def _watch_event(self, one: str) -> None:
        seen = self._watched.events.setdefault(one, [])
        while not self._ended.is_set():
            value = await self._persist(lambda: self._client.get_event(one, "e"))
            if value is not None:  # Or nothing could be set for a minute.
                seen.append(value["n"])
            await asyncio.sleep(self._random.uniform(0.1, 0.5))

    async def _watch_stream(self, one: str) -> None:
        seen = self._watched.streams.setdefault((one, "s1"), [])

        async def follow() -> None:
            async with aclosing(self._client.read_stream(one, "s1", offset=len(seen))) as values:
                async for value in values:
                    seen.append(value["n"])

        await self._persist(follow)

    async def has_ended(self, within_seconds: float) -> bool:
        """Wait until every workflow has ended. A cancellation that came late, after the resuming, is made good."""
        ids, loop = list(self._plan.programs), asyncio.get_running_loop()
        give_up_at = loop.time() + within_seconds
        while left := await self._direct.fetch(PENDING, ids):
            if loop.time() > give_up_at:
                return False
            if all(row["status"] == "CANCELLED" for row in left):
                for row in left:
                    await self._persist(lambda row=row: self._client.resume_workflow(row["id"]), limited="resume")  # type: ignore[misc]  # it is called at once
            await asyncio.sleep(0.3)
        self._ended.set()
        return True

    async def what_is_left(self) -> list[str]:
        """A sentence for every workflow that should have ended."""
        self._ended.set()
        left = await self._direct.fetch(PENDING, list(self._plan.programs))
        return [f"W2: workflow {row['id']!r} never ended and is {row['status']}." for row in left]

    async def ask_for_results(self) -> None:
        """Ask for some results as everybody would."""
        for one in self._random.sample(list(self._plan.programs), min(len(self._plan.programs), 10)):
            self._watched.results[one] = await self._persist(lambda one=one: self._result(one))  # type: ignore[misc]  # it is called at once

    async def _result(self, one: str) -> Any:
        return await (await self._client.retrieve_workflow(one)).get_result()

    async def _persist(self, call: Callable[[], Awaitable[Any]], *, limited: str = "") -> Any:
        """Call until the database was there. A call of a limited kind must give up in time."""
        return await persist(self._tally, call, limited=limited)
