"""Which bodies of steps ran, with which arguments: kept in this process, or in a file that outlives it."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

Said = list[object]
"""What a program tells the world in one act: its tag, how long the log was, and the last entry of the log."""

_kept: defaultdict[str, list[Said]] = defaultdict(list)
_file: list[int] = []


def keep_in(file: Path) -> None:
    """Append to this file from now on. What was written stays when the process is killed."""
    _file.append(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT))


def write(workflow_id: str, said: Said) -> None:
    """Note that the body of a step begins."""
    if _file:
        os.write(_file[-1], (json.dumps([workflow_id, said]) + "\n").encode())
    else:
        _kept[workflow_id].append(said)


def read(workflow_id: str) -> list[Said]:
    """The bodies that ran in this process for one workflow; they are forgotten with that."""
    return _kept.pop(workflow_id, [])


class Tail:
    """Reads a file that processes append to, each line once."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._offset = 0
        self._kept: defaultdict[str, list[Said]] = defaultdict(list)

    def read(self, workflow_id: str) -> list[Said]:
        """The bodies that have run for one workflow and were not read yet; they are forgotten with that."""
        self._go_on()
        return self._kept.pop(workflow_id, [])

    def read_all(self) -> dict[str, list[Said]]:
        """What nobody has read, by workflow."""
        self._go_on()
        return self._kept

    def _go_on(self) -> None:
        with self.file.open("rb") as file:
            file.seek(self._offset)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]  # The last one may not be complete yet.
        self._offset += len(lines)
        for line in lines.splitlines():
            workflow_id, said = json.loads(line)
            self._kept[workflow_id].append(said)


def read_file(file: Path) -> dict[str, list[Said]]:
    """The bodies that a file tells of, by workflow."""
    found: defaultdict[str, list[Said]] = defaultdict(list)
    if file.exists():
        for line in file.read_text().splitlines():
            workflow_id, said = json.loads(line)
            found[workflow_id].append(said)
    return found
