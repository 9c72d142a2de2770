"""axe-core, which finds what keeps people with screen readers or keyboards out of a page. It comes from npm, once a run."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PACKAGE = "axe-core@4.14.1"
NPM = shutil.which("npm")


@cache
def source(folder: Path) -> str:
    """The script. Skips the test when npm cannot bring it."""
    if NPM is None:
        pytest.skip("there is no npm: install Node.js 20 or newer")
    try:
        done = subprocess.run(
            [NPM, "pack", PACKAGE], check=False, cwd=folder, capture_output=True, text=True, timeout=90
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm cannot bring {PACKAGE}: the registry does not answer")
    if done.returncode != 0:
        pytest.skip(f"npm cannot bring {PACKAGE}: {done.stderr.strip()[-300:]}")
    with tarfile.open(next(folder.glob("axe-core-*.tgz"))) as packed:
        script = packed.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


async def violations(page: Any, script: str) -> list[str]:
    """What is wrong with the page that a browser shows, with the first place of each."""
    await page.evaluate(script)
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{one['impact']} {one['id']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"]]
