"""Everything bad that can happen to executors: killed, frozen, blocked, cut off, left without a server, or with a troubled one."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random

from tests.chaos.absences import Absences
from tests.chaos.direct import Direct
from tests.chaos.executor import Executor
from tests.chaos.facts import Tally
from tests.chaos.poolers import PoolerTroubles
from tests.chaos.transactions import Transactions
from tests.chaos.troubles import Troubles
from tests.chaos.ways import Proxies, Ways

TERMINATE = """
    select count(pg_terminate_backend(pid)) from pg_stat_activity
    where application_name = 'dbos_async' and random() < $1
"""


class Nemesis:
    """Does something bad every now and then; knows how to stop and to make good again."""

    def __init__(
        self, executors: Sequence[Executor], client: Proxies, ways: Ways, direct: Direct, seed: int, tally: Tally
    ) -> None:
        self.faults: Counter[str] = Counter()
        self.violations: list[str] = []
        self.absences = Absences()
        self._executors = executors
        self._client = client
        self._server = ways.server
        self._direct = direct
        self._random = Random(f"nemesis of {seed}")
        self._under_way: set[asyncio.Task[None]] = set()
        self._peace = asyncio.Event()
        self._restarting = asyncio.Lock()
        self.troubles = Troubles(ways.server.url, Random(f"troubles of {seed}"))
        self.transactions = Transactions(self.troubles, ways.of("client"), Random(f"transactions of {seed}"), tally)
        self._kinds: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "kill": (6, self._kill),
            "shut down": (2, self._shut_down),
            "freeze": (5, self._freeze),
            "freeze beyond the lease": (3, self._freeze_long),
            "block the loop": (8, self._block),
            "cut": (4, self._cut),
            "cut some": (5, self._cut_some),
            "hold": (4, self._hold),
            "hold beyond the lease": (2, self._hold_long),
            "hold, then cut": (3, self._hold_and_cut),
            "orphan": (5, self._orphan),
            "refuse": (5, self._refuse),
            "cut the client": (4, self._cut_client),
            "hold the client": (3, self._hold_client),
            "terminate": (5, self._terminate),
            "restart the server, fast": (1, self._restart_fast),
            "restart the server, immediate": (1, self._restart_immediate),
        }
        self._of_all = self.troubles.kinds() | self.transactions.kinds()
        if ways.pooler is not None:
            names = [executor.name for executor in executors]
            random = Random(f"pooler of {seed}")
            self._of_all |= PoolerTroubles(ways.pooler, self.troubles, self.absences, names, random).kinds()
        """The troubles of the whole database."""
        self._kinds |= self._of_all

    def knows(self, kind: str) -> bool:
        """Whether this server can have a trouble of that kind."""
        return kind in self._kinds

    def is_calm(self, executor: str | None) -> bool:
        """Whether the database has no trouble, and this executor (without a name: any one) has none."""
        return not self.troubles.active and any(
            not one.in_trouble.locked() for one in self._executors if executor in (None, one.name)
        )

    async def rage(self, pause_seconds: float, only: Sequence[str] = ()) -> None:
        """Until cancelled, do something bad (only of these kinds) after each pause of about that length."""
        if unknown := [kind for kind in only if kind not in self._kinds]:
            raise ValueError(f"There is no kind of fault {unknown[0]!r}: {', '.join(self._kinds)}.")
        while True:
            await asyncio.sleep(self._random.uniform(0.2, 1.8) * pause_seconds)
            # Somebody stays whole, or nothing would ever get done.
            if not self._peace.is_set() and sum(executor.in_trouble.locked() for executor in self._executors) < 2:
                kinds = [
                    kind
                    for kind in self._kinds
                    if (not only or kind in only) and (kind not in self._of_all or self.troubles.active < 2)
                ]
                if kinds:
                    self.begin(self._random.choices(kinds, [self._kinds[kind][0] for kind in kinds])[0])

    async def run(self, kinds: Sequence[str], pause_seconds: float) -> None:
        """Do exactly these, with pauses between them, and wait for the last one to be over."""
        for kind in kinds:
            await asyncio.sleep(pause_seconds)
            self.begin(kind)
        await self.settle()

    def begin(self, kind: str) -> None:
        """Do one bad thing, in the background."""
        task = asyncio.create_task(self._do(kind), name=f"nemesis: {kind}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def settle(self) -> None:
        """Wait until everything that is under way is over."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def make_peace(self) -> None:
        """Do nothing more until `go_on`, and let everything be whole."""
        self._peace.set()
        await self.settle()

    def go_on(self) -> None:
        """Be bad again."""
        self._peace.clear()

    async def _do(self, kind: str) -> None:
        concerns_all = kind in self._of_all or kind.startswith("restart")
        self.troubles.active += concerns_all
        slows = concerns_all and not kind.startswith("open transaction")
        self.troubles.slowing += slows
        self.troubles.begun += slows
        try:
            await self._kinds[kind][1]()
            self.faults[kind] += 1
        except Exception as error:
            self.violations.append(f"The suite itself is at fault: {kind} ended with {type(error).__name__}: {error}.")
        finally:
            self.troubles.active -= concerns_all
            self.troubles.slowing -= slows

    def _some_executor(self) -> Executor:
        free = [executor for executor in self._executors if not executor.in_trouble.locked()]
        return self._random.choice(free or list(self._executors))

    async def _kill(self) -> None:
        victim = self._some_executor()
        async with victim.in_trouble:
            assert victim.process is not None
            self._note_end(victim)
            self.absences.gone(victim.name)
            victim.signal(signal.SIGKILL)
            await victim.process.wait()
            await asyncio.sleep(self._random.choice((0, 0, 1, 4)))
            await victim.start()

    async def _shut_down(self) -> None:
        victim = self._some_executor()
        async with victim.in_trouble:
            self._note_end(victim)
            self.absences.gone(victim.name)
            if not await victim.stop():
                self.violations.append(f"W5: executor {victim.name} did not shut down within a minute.")
            await victim.start()

    def _note_end(self, victim: Executor) -> None:
        if victim.process is not None and victim.process.returncode is not None:
            self.violations.append(f"D4: executor {victim.name} ended by itself with {victim.process.returncode}.")

    async def _freeze(self, seconds: float | None = None) -> None:
        victim = self._some_executor()
        async with victim.in_trouble:
            with self.absences.silent(victim.name):
                victim.signal(signal.SIGSTOP)
                await asyncio.sleep(seconds or self._random.uniform(0.1, 4))
                victim.signal(signal.SIGCONT)

    async def _freeze_long(self) -> None:
        await self._freeze(self._random.uniform(15, 20))

    async def _block(self) -> None:
        """A step, or something else in its process, blocks the event loop. That is no reason to lose a workflow."""
        victim = self._some_executor()
        async with victim.in_trouble:
            seconds = self.troubles.seconds(1, self._random.choice((4, 25)))
            victim.block(self._random.choice(("loop", "step")), seconds)
            await asyncio.sleep(seconds)

    async def _cut(self) -> None:
        victim = self._some_executor()
        self.absences.lost(victim.name)
        victim.proxies.cut()

    async def _cut_some(self) -> None:
        self._note_losses()
        for executor in self._executors:
            executor.proxies.cut(0.4)

    def _note_losses(self) -> None:
        self.absences.lost(*(executor.name for executor in self._executors))

    async def _hold(self, seconds: float | None = None, *, cut: bool = False) -> None:
        victim = self._some_executor()
        async with victim.in_trouble:
            with self.absences.silent(victim.name):
                victim.proxies.hold()
                await asyncio.sleep(seconds or self._random.uniform(0.1, 5))
                if cut:
                    self.absences.lost(victim.name)
                    victim.proxies.cut()
                await victim.proxies.heal()

    async def _hold_long(self) -> None:
        await self._hold(self._random.uniform(15, 20))

    async def _hold_and_cut(self) -> None:
        await self._hold(cut=True)

    async def _orphan(self) -> None:
        victim = self._some_executor()
        async with victim.in_trouble:
            self.absences.lost(victim.name)
            await victim.proxies.orphan(self._random.choice((0.02, 0.3)), self._random.choice((0.05, 0.5, 2, 8)))

    async def _refuse(self) -> None:
        victim = self._some_executor()
        async with victim.in_trouble:
            with self.absences.silent(victim.name):
                self.absences.lost(victim.name)
                victim.proxies.refuse()
                victim.proxies.cut()
                await asyncio.sleep(self._random.uniform(0.5, 5))
                await victim.proxies.heal()

    async def _cut_client(self) -> None:
        self._client.cut()

    async def _hold_client(self) -> None:
        self._client.hold()
        await asyncio.sleep(self._random.uniform(0.5, 5))
        if self._random.random() < 0.5:
            self._client.cut()
        await self._client.heal()

    async def _terminate(self) -> None:
        self._note_losses()
        await self._direct.fetch(TERMINATE, self._random.choice((0.1, 0.5, 1.0)))

    async def _restart_fast(self) -> None:
        await self._restart("fast")

    async def _restart_immediate(self) -> None:
        await self._restart("immediate")

    async def _restart(self, mode: str) -> None:
        async with self._restarting:
            self._note_losses()
            await self._server.restart(mode, self._random.choice((0, 0, 1, 3)))
