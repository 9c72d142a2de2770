"""Brings up to date what documents repeat of the code: ``python docs/refresh.py``.

- Under each promise of docs/guarantees.md the tests that prove it. A test proves the promises that its name begins with:
  ``test_m2_m5_…`` proves M2 and M5, ``test_m1_to_m4_…`` all of M1 to M4.
- In the tables of docs/tour.md the numbers of lines.

``--check`` changes nothing, and fails when a list of tests is not up to date, when a promise has no test, or when a test names
a number that is no promise.
"""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
GUARANTEES = DOCS / "guarantees.md"
TOUR = DOCS / "tour.md"

PROMISE = re.compile(r"^- \*\*([A-Z]\d+)\*\* .*(?:\n  (?!<details>)\S.*)*", re.MULTILINE)
LINKED = re.compile(r"\n  <details>.*?</details>", re.DOTALL)
COUNTED = re.compile(r"(\]\(\.\./(dbos_async/[^)]+)\) \|) ?\d* \|")
TEST = re.compile(r"^(?:async )?def (test_(?:[a-z]\d+_)(?:to_)?\w*)", re.MULTILINE)


def numbers(test: str) -> list[str]:
    """The promises that a test proves: D1 and D4 for ``test_d1_d4_…``."""
    found: list[str] = []
    words = test.removeprefix("test_").split("_")
    for index, word in enumerate(words):
        if re.fullmatch(r"[a-z]\d+", word):
            first = int(words[index - 2][1:]) + 1 if index > 1 and words[index - 1] == "to" else int(word[1:])
            found += [f"{word[0].upper()}{number}" for number in range(first, int(word[1:]) + 1)]
        elif word != "to":
            break
    return found


def proofs() -> dict[str, list[tuple[str, str]]]:
    """For each promise the tests that prove it, each with its file."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for test in TEST.findall(path.read_text()):
            for number in numbers(test):
                found.setdefault(number, []).append((test, path.relative_to(ROOT).as_posix()))
    return {number: sorted(tests) for number, tests in found.items()}


def linked(text: str, tests: dict[str, list[tuple[str, str]]]) -> str:
    """The document with a list of tests under each promise."""

    def with_tests(promise: re.Match[str]) -> str:
        found = tests.get(promise[1], [])
        if not found:
            return promise[0]
        links = " ·\n  ".join(f"[`{test}`](../{path})" for test, path in found)
        summary = f"{len(found)} test{'s' if len(found) > 1 else ''}"
        return f"{promise[0]}\n  <details><summary>{summary}</summary>\n\n  {links}\n\n  </details>"

    return PROMISE.sub(with_tests, LINKED.sub("", text))


def counted(text: str) -> str:
    """The document with the number of lines of each file of its tables."""

    def with_count(row: re.Match[str]) -> str:
        path = ROOT / row[2]
        return f"{row[1]} {len(path.read_text().splitlines())} |" if path.exists() else row[0]

    return COUNTED.sub(with_count, text)


def main() -> None:
    """Write the documents, or check them."""
    text, tests = GUARANTEES.read_text(), proofs()
    promised = {promise[1] for promise in PROMISE.finditer(LINKED.sub("", text))}
    unproved = promised - set(tests)
    if unproved:
        sys.exit(f"No test proves {', '.join(sorted(unproved))}: name one after it, test_m1_…")
    unknown = {number: tests[number][0] for number in set(tests) - promised}
    if unknown:
        sys.exit(f"These numbers of tests are no promises of {GUARANTEES.name}: {unknown}")
    new = linked(text, tests)
    if "--check" not in sys.argv[1:]:
        GUARANTEES.write_text(new)
        TOUR.write_text(counted(TOUR.read_text()))
    elif new != text:
        sys.exit(f"{GUARANTEES.name} is not up to date: run 'python docs/refresh.py'.")


if __name__ == "__main__":
    main()
