"""What type checkers see: everything public has a type, and a wrong message type is an error where it is sent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient

ROOT = Path(__file__).parent.parent.parent
SURFACE = "\n".join(path.read_text() for path in sorted((ROOT / "tests" / "typing").glob("*.py")))


def pyright(*arguments: str) -> Any:
    """What pyright reports of this environment, as JSON."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    command = [sys.executable, "-m", "pyright", "--outputjson", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return json.loads(done.stdout)


def test_everything_public_has_a_type() -> None:
    report = pyright("--verifytypes", "dbos_async", "--ignoreexternal")["typeCompleteness"]
    assert Path(report["moduleRootDirectory"]) == ROOT / "dbos_async"
    unclear = {
        symbol["name"]: [diagnostic["message"] for diagnostic in symbol["diagnostics"]]
        for symbol in report["symbols"]
        if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]
    }
    assert unclear == {}
    assert report["exportedSymbolCounts"]["withKnownType"] > 200
    assert report["completenessScore"] == 1


@pytest.mark.parametrize("front_door", [DBOS, DBOSClient])
def test_every_verb_is_among_the_checked_types(front_door: type) -> None:
    verbs = {name for name in dir(front_door) if not name.startswith("_")}
    assert {"send", "get_event", "read_stream", "start_workflow"} <= verbs
    said = "(?:DBOS|dbos)" if front_door is DBOS else "client"
    missing = {verb for verb in verbs if not re.search(rf"\b{said}\.{verb}\b", SURFACE)}
    assert missing == set()


def test_the_mistake_that_the_readme_shows_is_an_error_and_the_only_one(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"```python\n((?:(?!```).)*red squiggle.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL
    )
    (wrong,) = [line for line in block.splitlines() if "red squiggle" in line]
    example = tmp_path / "example.py"
    example.write_text("# pyright: strict\n" + block.replace(wrong, wrong.replace("# ", "", 1)))
    mistakes = [
        diagnostic for diagnostic in pyright(str(example))["generalDiagnostics"] if diagnostic["severity"] == "error"
    ]
    place = example.read_text().splitlines().index(wrong.replace("# ", "", 1))
    assert {mistake["rule"] for mistake in mistakes} == {"reportArgumentType", "reportCallIssue"}
    assert {mistake["range"]["start"]["line"] for mistake in mistakes} == {place}
