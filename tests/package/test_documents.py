"""What the documents say is true: their code runs, their links lead somewhere, and what they name exists.

A Python block that ends with ``# Output:`` is a program: it runs on a database of its own and must print those lines. A block
without output must run, too. Only a block under the comment ``<!-- fragment -->`` is not run; it must compile. If the comment
``<!-- quote of FILE -->`` follows, the block must stand in that file, whatever its indentation there.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
    if not any(part.endswith((".egg-info", "venv")) for part in path.parts)
)
MADE_BY_PROGRAMS = (".dbos_async/",)
"""Folders that are there only while a program uses them."""

FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FILE_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|sql|md|toml|yml|yaml)")
FOLDER_NAME = re.compile(r"(?:[\w.-]+/)+")
IDENTIFIER = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:\(\))?")
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
TEST_NAME = re.compile(r"\btest_\w*[^\W_](?!\w)")


def blocks(fragments: bool) -> list[Any]:
    """The Python blocks of all documents that are fragments, or those that are programs."""
    return [
        pytest.param(block[3], id=f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, block.start()) + 1}")
        for path in DOCUMENTS
        for text in [path.read_text()]
        for block in FENCED.finditer(text)
        if block[2] == "python"
        if fragments == ("<!-- fragment -->" in text[: block.start()].rstrip("\n").rpartition("\n")[2])
    ]


def name(path: Path) -> str:
    return os.path.relpath(path, ROOT)


def prose(path: Path) -> str:
    """The document without its code blocks."""
    return FENCED.sub("", path.read_text())


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(path), flags=re.MULTILINE):
        text = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        number = sum(1 for other in found if re.fullmatch(rf"{re.escape(text)}(-\d+)?", other))
        found.add(f"{text}-{number}" if number else text)
    return found


@functools.cache
def sources() -> list[Path]:
    return [
        path
        for folder in ("dbos_async", "schema", "tests", "examples", "docs", ".ci", ".github")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]


@functools.cache
def words() -> set[str]:
    """Every word of the code, the SQL and the settings, this file apart, and the names of asyncio."""
    kinds = (".py", ".sql", ".toml")
    code = "\n".join(
        path.read_text() for path in sources() if path.suffix in kinds and path.name != Path(__file__).name
    )
    return {*re.findall(r"\w+", code), *dir(asyncio)}


QUOTE = re.compile(r"<!-- quote of (\S+) -->\n( *)```python\n(.*?)^\2```$", re.DOTALL | re.MULTILINE)


def quotes() -> list[Any]:
    """The blocks that are quotes, each with the file that it is from."""
    return [
        pytest.param(quote[1], quote[3], id=f"{name(path)}:{text.count(chr(10), 0, quote.start()) + 1}")
        for path in DOCUMENTS
        for text in [path.read_text()]
        for quote in QUOTE.finditer(text)
    ]


@pytest.mark.parametrize(("file", "quote"), quotes())
def test_every_quote_stands_in_its_file(file: str, quote: str) -> None:
    code, quoted = (
        "\n".join(line.strip() for line in text.strip().splitlines()) for text in ((ROOT / file).read_text(), quote)
    )
    assert f"\n{quoted}\n" in code, f"{file} has no longer: {quote}"


LOGGED = r"^(Workflow '[^']*' cannot read what|Step '[^']*' of workflow '[^']*' failed in attempt) .*\n"
"""What the log says of a failure that an example shows on purpose."""


def test_every_fragment_compiles() -> None:
    for fragment in blocks(fragments=True):
        compile(str(fragment.values[0]), str(fragment.id), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.newest_only  # the verbs that they call are tested on both versions elsewhere
@pytest.mark.parametrize("block", blocks(fragments=False))
def test_every_code_block_runs_and_prints_what_it_says(block: str, tmp_path: Path, database_url: str) -> None:
    (tmp_path / "example.py").write_text(block)
    program = ["-W", "error", "example.py"]
    if re.search(r"^(async )?def test_", block, re.MULTILINE):
        program = ["-m", "pytest", "-q", "-o", "asyncio_default_fixture_loop_scope=function", "example.py"]
    done = subprocess.run(
        [sys.executable, *program],
        cwd=tmp_path, env={**os.environ, "DBOS_DATABASE_URL": database_url},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    logged = re.sub(LOGGED, "", done.stderr, flags=re.MULTILINE)
    assert (done.returncode, logged) == (0, ""), done.stdout + done.stderr
    _, is_shown, expected = block.partition("# Output:\n")
    if is_shown:
        assert done.stdout == re.sub("^# ?", "", expected, flags=re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in LINK.findall(prose(document)):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        if not path.exists():
            pytest.fail(f"{name(document)} links to {target}, which is not there")
        if anchor and path.suffix == ".md" and path.exists():
            assert anchor in anchors(path), f"{name(document)} links to {target}, and there is no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    file_names = {path.name for path in sources()}
    bases = (ROOT, ROOT / "dbos_async", ROOT / "tests", ROOT / "docs", document.parent)
    for span in CODE_SPAN.findall(prose(document)):
        if FILE_NAME.fullmatch(span) or FOLDER_NAME.fullmatch(span):
            found = span in MADE_BY_PROGRAMS or any((base / span).exists() for base in bases)
            found = found or ("/" not in span and span in file_names)
            assert found, f"{name(document)} names {span}, which is not there"
    for language, block in ((found[2], found[3]) for found in FENCED.finditer(document.read_text())):
        if language == "sh":
            for file in re.findall(r"(?<!\S)(?:\.?[\w-]+/)+[\w-]+\.\w+", block):
                assert (ROOT / file).exists(), f"{name(document)} names {file}, which is not there"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_test_that_a_document_names_is_there(document: Path) -> None:
    there = words() | {path.stem for path in sources()}
    for test in TEST_NAME.findall(re.sub(r"<details>.*?</details>", "", prose(document), flags=re.DOTALL)):
        assert test in there, f"{name(document)} names {test}, which is not there"


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=name)
def test_every_identifier_that_a_document_names_is_there(document: Path) -> None:
    text = prose(document).partition("## Not built yet")[0]
    for span in CODE_SPAN.findall(text):
        if IDENTIFIER.fullmatch(span) and not TEST_NAME.fullmatch(span) and not FILE_NAME.fullmatch(span):
            for word in span.removesuffix("()").split("."):
                assert word in words(), f"{name(document)} names {span}, which is not there"


def test_the_readme_can_be_read_in_a_few_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


def test_every_decision_is_listed_and_has_its_parts() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = (folder / "README.md").read_text()
    decisions = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        text = path.read_text()
        title = text.splitlines()[0].removeprefix("# ")
        assert f"[{title}]({path.name})" in listed, f"{path.name} is not listed by its title"
        assert title.startswith(f"{int(path.name[:4])}. ")
        for part in ("Context", "Decision", "Consequences", "Proof", "Code"):
            assert f"**{part}.**" in text, f"{path.name} says nothing of: {part}"


def test_the_guarantees_link_the_tests_that_prove_them() -> None:
    command = [sys.executable, str(ROOT / "docs" / "refresh.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
