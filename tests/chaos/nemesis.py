"""Executor processes, and everything bad that can happen to them: killed, frozen, cut off, or left without a server."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random

from tests.chaos.direct import Direct
from tests.support.postgres import Server
from tests.support.proxy import Proxy

ROOT = Path(__file__).parent.parent.parent

TERMINATE = """
    select count(pg_terminate_backend(pid)) from pg_stat_activity
    where application_name = 'dbos_async' and random() < $1
"""

MUST_NOT_BE_LOGGED = re.compile(
    r"Traceback|CRITICAL|ended unexpectedly|never retrieved|was destroyed|never awaited|REPLAY|recorded as",
    re.IGNORECASE,
)


class Executor:
    """One executor process behind a proxy of its own, started again whenever it is gone."""

    def __init__(self, name: str, server: Server, folder: Path) -> None:
        self.name = name
        self.proxy = Proxy(server.url)
        self.log = folder / f"{name}.log"
        self.bodies = folder / "bodies"
        """Where the steps of random programs leave their traces."""
        self.in_trouble = asyncio.Lock()
        """Held while something bad that takes a while happens to it."""
        self.process: asyncio.subprocess.Process | None = None
        self._server = server

    async def start(self) -> None:
        """Start the process."""
        await self.proxy.open()
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.chaos.program",
                self.proxy.url, self._server.url, self.name, str(self.bodies),
                cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log,
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def stop(self, within_seconds: float = 60.0) -> bool:
        """Let it shut down. False when it had to be killed."""
        assert self.process is not None
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), within_seconds)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            return False
        return True

    def complaints(self) -> list[str]:
        """The lines of its log that must not be there."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [
            f"D4/W4: executor {self.name} logged: {line[:300]}" for line in lines if MUST_NOT_BE_LOGGED.search(line)
        ]


class Nemesis:
    """Does something bad every now and then; knows how to stop and to make good again."""

    def __init__(self, executors: Sequence[Executor], client: Proxy, server: Server, direct: Direct, seed: int) -> None:
        self.faults: Counter[str] = Counter()
        self.violations: list[str] = []
        self._executors = executors
        self._client = client
        self._server = server
        self._direct = direct
        self._random = Random(f"nemesis of {seed}")
        self._under_way: set[asyncio.Task[None]] = set()
        self._peace = asyncio.Event()
        self._restarting = asyncio.Lock()
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "kill": self._kill,
            "shut down": self._shut_down,
            "freeze": self._freeze,
            "freeze beyond the lease": self._freeze_long,
            "cut": self._cut,
            "cut some": self._cut_some,
            "hold": self._hold,
            "hold beyond the lease": self._hold_long,
            "hold, then cut": self._hold_and_cut,
            "orphan": self._orphan,
            "refuse": self._refuse,
            "cut the client": self._cut_client,
            "hold the client": self._hold_client,
            "terminate": self._terminate,
            "restart the server, fast": self._restart_fast,
            "restart the server, immediate": self._restart_immediate,
        }

    weights = (6, 2, 5, 3, 4, 5, 4, 2, 3, 5, 5, 4, 3, 5, 1, 1)

    async def rage(self, pause_seconds: float, only: Sequence[str] = ()) -> None:
        """Until cancelled, do something bad (only of these kinds) after each pause of about that length."""
        weights = [weight * (not only or kind in only) for kind, weight in zip(self._kinds, self.weights, strict=True)]
        while True:
            await asyncio.sleep(self._random.uniform(0.2, 1.8) * pause_seconds)
            # Somebody stays whole, or nothing would ever get done.
            if not self._peace.is_set() and sum(executor.in_trouble.locked() for executor in self._executors) < 2:
                (kind,) = self._random.choices(list(self._kinds), weights)
                self.begin(kind)

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
        await self._kinds[kind]()
        self.faults[kind] += 1

    def _some_executor(self) -> Executor:
        free = [executor for executor in self._executors if not executor.in_trouble.locked()]
        return self._random.choice(free or list(self._executors))

    async def _kill(self) -> None:
        victim = self._some_executor()
        async with victim.in_trouble:
            assert victim.process is not None
            self._note_end(victim)
            victim.signal(signal.SIGKILL)
            await victim.process.wait()
            await asyncio.sleep(self._random.choice((0, 0, 1, 4)))
            await victim.start()

    async def _shut_down(self) -> None:
        victim = self._some_executor()
        async with victim.in_trouble:
            self._note_end(victim)
            if not await victim.stop():
                self.violations.append(f"W5: executor {victim.name} did not shut down within a minute.")
            await victim.start()

    def _note_end(self, victim: Executor) -> None:
        if victim.process is not None and victim.process.returncode is not None:
            self.violations.append(f"D4: executor {victim.name} ended by itself with {victim.process.returncode}.")

    async def _freeze(self, seconds: float | None = None) -> None:
        victim = self._some_executor()
        async with victim.in_trouble:
            victim.signal(signal.SIGSTOP)
            await asyncio.sleep(seconds or self._random.uniform(0.1, 4))
            victim.signal(signal.SIGCONT)

    async def _freeze_long(self) -> None:
        await self._freeze(self._random.uniform(15, 20))

    async def _cut(self) -> None:
        self._some_executor().proxy.cut()

    async def _cut_some(self) -> None:
        for executor in self._executors:
            executor.proxy.cut(0.4)

    async def _hold(self, seconds: float | None = None, *, cut: bool = False) -> None:
        victim = self._some_executor()
        async with victim.in_trouble:
            victim.proxy.hold()
            await asyncio.sleep(seconds or self._random.uniform(0.1, 5))
            if cut:
                victim.proxy.cut()
            await victim.proxy.heal()

    async def _hold_long(self) -> None:
        await self._hold(self._random.uniform(15, 20))

    async def _hold_and_cut(self) -> None:
        await self._hold(cut=True)

    async def _orphan(self) -> None:
        victim = self._some_executor()
        async with victim.in_trouble:
            await victim.proxy.orphan(self._random.choice((0.02, 0.3)), self._random.choice((0.05, 0.5, 2, 8)))

    async def _refuse(self) -> None:
        victim = self._some_executor()
        async with victim.in_trouble:
            victim.proxy.refuse()
            victim.proxy.cut()
            await asyncio.sleep(self._random.uniform(0.5, 5))
            await victim.proxy.heal()

    async def _cut_client(self) -> None:
        self._client.cut()

    async def _hold_client(self) -> None:
        self._client.hold()
        await asyncio.sleep(self._random.uniform(0.5, 5))
        if self._random.random() < 0.5:
            self._client.cut()
        await self._client.heal()

    async def _terminate(self) -> None:
        await self._direct.fetch(TERMINATE, self._random.choice((0.1, 0.5, 1.0)))

    async def _restart_fast(self) -> None:
        await self._restart("fast")

    async def _restart_immediate(self) -> None:
        await self._restart("immediate")

    async def _restart(self, mode: str) -> None:
        async with self._restarting:
            await self._server.restart(mode, self._random.choice((0, 0, 1, 3)))
