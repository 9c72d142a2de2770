"""One executor process of the fault suite, and what its log must not say."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from pathlib import Path

from tests.chaos.ways import Proxies, Ways

ROOT = Path(__file__).parent.parent.parent

MUST_NOT_BE_LOGGED = re.compile(
    r"Traceback(?!\.py)|CRITICAL|ended unexpectedly|keeps the lease has ended|never retrieved|was destroyed|never awaited"
    r"|REPLAY(?!/)|recorded as",
    re.IGNORECASE,
)
RECORD = re.compile(r"^\d{4}-\d\d-\d\d \S+ [A-Z]+ \S+ ")
EXPECTED = re.compile(r"^\d{4}-\d\d-\d\d \S+ (WARNING|ERROR) dbos_async ")
REFUSAL = re.compile(
    r"the fault suite refuses this|permission denied|relation .* does not exist|too many notifications in the NOTIFY queue"
    r"|due to lock timeout|due to statement timeout|deadlock detected"
)
"""What the database says when the suite itself has it refuse a statement. A service logs that with its traceback."""
ENDS_IN_ERROR = re.compile(r"^\S+ \S+ WARNING dbos_async Workflow .* ends in ERROR\.")
OF_A_PROGRAM = re.compile(r"^\s*ValueError: \(")
"""How the error of a child looks that a random program has fail."""


class Executor:
    """One executor process behind proxies of its own, started again whenever it is gone."""

    def __init__(self, name: str, ways: Ways, folder: Path) -> None:
        self.name = name
        self.proxies = Proxies(ways.of(name))
        self.log = folder / f"{name}.log"
        self.bodies = folder / "bodies"
        """Where the steps of random programs leave their traces."""
        self.runs = folder / "runs"
        """Where each run of a workflow says that it begins."""
        self.in_trouble = asyncio.Lock()
        """Held while something bad that takes a while happens to it."""
        self.process: asyncio.subprocess.Process | None = None
        self._server = ways.server

    async def start(self) -> None:
        """Start the process."""
        await self.proxies.open()
        way = self.proxies.way
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.chaos.program",
                way.url, self._server.url, self.name, str(self.bodies), str(self.runs), *way.words,
                cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log,
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)

    def block(self, where: str, seconds: float) -> None:
        """Have it block its event loop for so long: at once (``loop``), or in the next body of a step (``step``)."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"{where} {seconds}\n".encode())

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
        """What its log must not say. A refusal of the database may be logged as a warning or an error, with its traceback."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        found: list[str] = []
        for record in _records(text):
            if ENDS_IN_ERROR.match(record[0]) and OF_A_PROGRAM.match(record[-1]):
                continue
            lines = [line for line in record if MUST_NOT_BE_LOGGED.search(line)]
            if EXPECTED.match(record[0]) and any(REFUSAL.search(line) for line in record):
                lines = [line for line in lines if "Traceback" not in line]
            found += [
                f"D4/W4: executor {self.name} logged: {line[:300]}{f' … {record[-1][:200]}' if len(record) > 1 else ''}"
                for line in lines
            ]
        return found


def _records(text: str) -> list[list[str]]:
    records: list[list[str]] = []
    for line in text.splitlines():
        if RECORD.match(line) or not records:
            records.append([line])
        else:
            records[-1].append(line)
    return records
