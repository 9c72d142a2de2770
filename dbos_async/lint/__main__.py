"""The command ``python -m dbos_async.lint``."""

from __future__ import annotations

import argparse
import os
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from dbos_async.lint import Finding, check_source

SKIPPED: Final = ("__pycache__", "node_modules")


class UnreadableError(Exception):
    """A file or a folder that cannot be read. Its text is the sentence for the user."""


def main(arguments: list[str] | None = None) -> int:
    """Check files and folders, print what was found, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dbos_async.lint",
        description="Report what workflows call and a replay does not repeat.",
        epilog="A comment '# replay: ok' on the line of a call lets it pass. "
        "Exit codes: 0 nothing found, 1 something found, 2 a path could not be read.",
    )
    parser.add_argument("path", nargs="*", default=["."], help="a file or a folder [default: the current folder]")
    findings: list[Finding] = []
    is_all_read = True
    for file in _files(parser.parse_args(arguments).path):
        try:
            found = _check(file)
        except UnreadableError as unreadable:
            print(unreadable, file=sys.stderr)
            is_all_read = False
            continue
        for finding in found:
            print(finding)
        findings += found
    if findings:
        files = len({finding.path for finding in findings})
        print(f"{_count(len(findings), 'call')} in {_count(files, 'file')} that a replay does not repeat.")
    if not is_all_read:
        return 2
    return 1 if findings else 0


def _check(file: Path) -> list[Finding]:
    try:
        with tokenize.open(file) as text:
            return check_source(text.read(), str(file))
    except OSError as error:
        raise UnreadableError(f"{file}: cannot be read: {error.strerror}.") from None
    except SyntaxError as error:
        place = f"{file}:{error.lineno or 1}:{error.offset or 1}"
        raise UnreadableError(f"{place}: cannot be parsed: {error.msg}.") from None
    except ValueError as error:
        raise UnreadableError(f"{file}: cannot be parsed: {error}.") from None
    except (RecursionError, MemoryError):
        raise UnreadableError(f"{file}: cannot be parsed: it is nested too deeply.") from None


def _files(paths: Iterable[str]) -> Iterator[Path]:
    """These files and the Python files of these folders, each once, and also what is not there or cannot be read."""
    seen: set[Path] = set()
    for path in map(Path, paths):
        for file in _files_of(path) if path.is_dir() else [path]:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _files_of(path: Path) -> Iterator[Path]:
    closed: list[OSError] = []
    for folder, folders, names in os.walk(path, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not _is_skipped(Path(folder, name)))
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))
    yield from (Path(error.filename) for error in closed)


def _is_skipped(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in SKIPPED or (folder / "pyvenv.cfg").exists()


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
