"""The test suite itself: markers, promise numbers, and what its files may be."""

from __future__ import annotations

import ast
import asyncio
import re
import sys
from pathlib import Path

import asyncpg
import pytest

from tests.chaos import ground
from tests.support import troubles
from tests.support.database_marker import without_database
from tests.support.postgres import SMALL, Server

ROOT = Path(__file__).parent.parent.parent
TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("*.py"))


def test_what_uses_no_server_has_no_marker(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("database") is None


@pytest.mark.usefixtures("database_url")
def test_what_uses_a_server_has_the_marker(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("database") is not None


async def test_without_the_marker_nothing_reaches_the_server(server_url: str) -> None:
    with without_database() as tried:
        with pytest.raises(PermissionError, match="marker database"):
            await asyncpg.connect(server_url)
        assert len(tried) == 1
        # Nor does a program that the test starts learn of the server.
        code = "import os; print([name for name in os.environ if name.startswith('DBOS_TEST_') and 'POSTGRES' not in name])"
        program = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        assert (await program.communicate())[0].decode().strip() == "[]"
    await (await asyncpg.connect(server_url)).close()


async def test_without_the_marker_no_server_is_started() -> None:
    with without_database() as tried:
        server = Server(*SMALL)
        with pytest.raises(PermissionError, match="marker database"):
            await server.start()
        await server.remove()
        assert len(tried) == 1


GUARANTEES = next(path for path in (ROOT / "docs" / "guarantees.md", ROOT / "README.md") if path.exists())
PROMISE = re.compile(r"^- \*\*([A-Z]\d+)\*\*( †)?")
NUMBERS = re.compile(r"test_((?:[a-z]\d+_(?:to_)?)+)")


def promises() -> dict[str, bool]:
    """The number of each promise, and whether it is kept already; † beside it or its heading stands for: not yet."""
    found: dict[str, bool] = {}
    heading = ""
    for line in GUARANTEES.read_text().splitlines():
        heading = line if line.startswith("#") else heading
        if match := PROMISE.match(line):
            found[match[1]] = match[2] is None and "†" not in heading
    return found


def proved() -> dict[str, list[str]]:
    """By promise, the tests that carry its number: ``test_m1_m6_…``, or ``test_m1_to_m3_…`` for all from the first to the last."""
    found: dict[str, list[str]] = {}
    for test in names_of_tests():
        match = NUMBERS.match(test)
        for word in re.findall(r"[a-z]\d+(?:_to_[a-z]\d+)?", match[1]) if match else ():
            first, _, last = word.upper().partition("_TO_")
            for number in range(int(first[1:]), int((last or first)[1:]) + 1):
                found.setdefault(f"{first[0]}{number}", []).append(test)
    return found


def names_of_tests() -> list[str]:
    return [
        node.name
        for file in FILES
        if file.name.startswith("test_")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def test_every_promise_has_a_test_of_its_number() -> None:
    kept = [number for number, is_kept in promises().items() if is_kept]
    assert len(kept) >= 37, "the list of promises is found"
    found = proved()
    assert [number for number in kept if number not in found] == []


def test_every_number_in_the_name_of_a_test_is_a_promise() -> None:
    known = promises()
    assert {number: names for number, names in proved().items() if number not in known} == {}


def test_no_file_passes_400_lines() -> None:
    lengths = {str(file.relative_to(TESTS)): len(file.read_text().splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_helper_comes_from_a_test() -> None:
    pattern = re.compile(r"^\s*(?:from|import) tests\.[\w.]*test_\w+", re.MULTILINE)
    assert [file.name for file in FILES if pattern.search(file.read_text())] == []


def test_every_folder_is_a_package() -> None:
    """Two tests of the same file name do not hide each other."""
    folders = {file.parent for file in FILES if file.name.startswith("test_")}
    assert [folder.name for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_clock_that_a_statement_reads_can_be_moved_in_the_tests() -> None:
    """A statement that reads another clock would be alone in its time, and wait for what is due in that of the others."""
    sql = "\n".join(path.read_text() for folder in ("dbos_async", "schema") for path in (ROOT / folder).rglob("*.sql"))
    read = set(re.findall(r"\b(now|\w+_timestamp|timeofday)\(\)", sql)) | set(re.findall(r"\bcurrent_time\w*", sql))
    assert read >= {"clock_timestamp", "statement_timestamp"}
    for clock in (ground.CLOCK, troubles.CLOCK):
        assert read <= set(re.findall(r"function \w+\.(\w+)\(\)", clock))
