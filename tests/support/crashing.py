"""The program tests/support/programs/crash.py: run, killed, and run again."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


async def run(url: str, workflow: str, file: Path, *crash: str) -> tuple[int | None, dict[str, Any] | None]:
    """Run the program; its exit code, and what it printed if it came to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.programs.crash", url, workflow, str(file), *crash,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    if process.returncode == 0:
        return 0, json.loads(out)
    assert process.returncode == -signal.SIGKILL, err.decode()
    return process.returncode, None


async def killed_and_taken_over(url: str, workflow: str, file: Path, mode: str, at: int) -> dict[str, Any]:
    code, story = await run(url, workflow, file, mode, str(at))
    if mode != "during":
        assert code == -signal.SIGKILL, "the program was to die at this step"
    if story is None:
        code, story = await run(url, workflow, file)
    assert story is not None
    assert code == 0
    ran = Counter(file.read_text().split())
    # A body that ran and was not recorded runs again; nothing else does.
    assert set(ran.values()) <= {1, 2}
    assert sum(count - 1 for count in ran.values()) <= 6
    return story
