"""The examples of README.md and of the docstrings run, and print what they promise; so does the checkout."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def run(*command: str, cwd: Path, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=cwd, env={**os.environ, "DBOS_DATABASE_URL": url}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_the_readme_has_examples() -> None:
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_examples_of_the_readme_print_what_they_say(block: str, tmp_path: Path, database_url: str) -> None:
    (tmp_path / "example.py").write_text(block)
    done = run("example.py", cwd=tmp_path, url=database_url)
    assert done.stderr == ""
    _, _, expected = block.partition("# Output:\n")
    assert expected
    assert done.stdout == re.sub("^# ", "", expected, flags=re.MULTILINE)


def test_the_first_example_of_the_readme_is_short() -> None:
    code = [line for line in BLOCKS[0].partition("# Output:")[0].splitlines() if line.strip()]
    assert len(code) <= 30


SIDE_EFFECTS = ["reserves a widget", "opens a payment of 19.90 €", "ships the widget"]


def effects(*outputs: str) -> list[str]:
    """The lines that show a side effect."""
    return [line for output in outputs for line in output.splitlines() if "✱" in line]


def test_the_checkout_runs_to_its_end(tmp_path: Path, database_url: str) -> None:
    done = run(str(ROOT / "examples" / "checkout.py"), cwd=tmp_path, url=database_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the order is completed" in done.stdout
    assert all(effect in line for effect, line in zip(SIDE_EFFECTS, effects(done.stdout), strict=True))


def test_the_checkout_survives_being_killed_and_repeats_nothing(tmp_path: Path, database_url: str) -> None:
    example = str(ROOT / "examples" / "checkout.py")
    crashed = run(example, "--crash", cwd=tmp_path, url=database_url)
    assert crashed.returncode == -signal.SIGKILL
    done = run(example, cwd=tmp_path, url=database_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "was under way when the program was killed" in done.stdout
    assert "the order is completed" in done.stdout
    lines = effects(crashed.stdout, done.stdout)
    assert all(effect in line for effect, line in zip(SIDE_EFFECTS, lines, strict=True))
    again = run(example, cwd=tmp_path, url=database_url)
    assert len(effects(again.stdout)) == 3, "the next order is a new one"


def test_the_traced_checkout_shows_one_trace_of_two_processes(tmp_path: Path, database_url: str) -> None:
    done = run(str(ROOT / "examples" / "traced_checkout.py"), cwd=tmp_path, url=database_url)
    assert (done.returncode, done.stderr) == (0, "")
    result, *lines = done.stdout.splitlines()
    assert result == "shipped as PARCEL-0815"
    assert lines[0] == "  shop  POST /orders"
    assert sorted(line.split(None, 1)[1].strip() for line in lines) == [
        "POST /orders", "answer parcel  ← ask parcel", "ask parcel", "receive parcel  ← ask parcel",
        "receive payment  ← send payment", "send payment", "set_event", "step reserve", "step ship",
        "workflow checkout (SUCCESS)", "workflow checkout (WAITING)",
    ]  # fmt: skip
