"""``python -m dbos_async.lint``: what it says of files and folders, and how it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dbos_async.lint import check_source
from dbos_async.lint.__main__ import main

ROOT = Path(__file__).parent.parent.parent

CLOCK = "import time\n@DBOS.workflow()\nasync def checkout():\n    return time.time()\n"


def lint(*paths: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "dbos_async.lint", *paths]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_command_reports_what_it_finds_in_folders(tmp_path: Path) -> None:
    for name in (
        "shop/orders.py",
        "shop/a/clock.py",
        ".hidden/x.py",
        ".venv/x.py",
        "env/x.py",
        "__pycache__/x.py",
        "notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(CLOCK)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    done = lint(cwd=tmp_path)
    why = "time.time in workflow 'checkout' gives another time in a replay: use DBOS.now, or call it in a step."
    assert done.stdout.splitlines() == [
        f"shop/orders.py:4:12: {why}",
        f"shop/a/clock.py:4:12: {why}",
        "2 calls in 2 files that a replay does not repeat.",
    ]
    assert (done.returncode, done.stderr) == (1, "")


def test_the_command_says_what_it_cannot_read_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def broken(:\n")
    (tmp_path / "good.py").write_text(CLOCK)
    done = lint("nowhere", "broken.py", "good.py", cwd=tmp_path)
    assert done.stderr.splitlines() == [
        "nowhere: cannot be read: No such file or directory.",
        "broken.py:1:12: cannot be parsed: invalid syntax.",
    ]
    assert done.stdout.splitlines()[-1] == "1 call in 1 file that a replay does not repeat."
    assert done.returncode == 2


UNREADABLE = {
    "not Python": b"async def:\n",
    "another version of Python": b"print 'hello'\n",
    "not UTF-8": b"x = '\xff'\n",
    "an encoding that nobody knows": b"# coding: klingon\n",
    "a null byte": b"x = 1\0\n",
    "too deep": b"x = " + b"-" * 50_000 + b"1\n",
    "too long a chain": b"workflow = " + b"+".join([b"1"] * 5_000) + b"\n",
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_parsed_is_one_line(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.py").write_bytes(content)
    (tmp_path / "y.py").write_text(CLOCK)
    assert main([str(tmp_path)]) == 2
    written = capsys.readouterr()
    assert len(written.err.splitlines()) == 1
    assert "x.py:" in written.err
    assert "cannot be parsed: " in written.err
    assert written.out.endswith("1 call in 1 file that a replay does not repeat.\n")


CLEAN = ["", "\ufeff" + CLOCK.replace("time.time()", "1"), "x = '\\d'\n", "# coding: latin-1\nx = 1\n"]


@pytest.mark.parametrize("content", CLEAN)
def test_nothing_is_said_of_what_is_clean(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.py").write_text(content)
    assert main([str(tmp_path), str(tmp_path / "x.py")]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_file_that_is_named_twice_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "program").write_text(CLOCK)
    assert main([str(tmp_path / "program"), str(tmp_path / ".." / tmp_path.name / "program")]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_examples_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ROOT / "examples")]) == 0, capsys.readouterr().out


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_examples_of_the_documents_are_clean(document: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", document.read_text(), flags=re.DOTALL | re.MULTILINE):
        assert list(map(str, check_source(block, document.name))) == []


def test_the_library_does_not_import_it() -> None:
    code = "import sys, dbos_async; print([name for name in sys.modules if name.startswith('dbos_async.lint')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
