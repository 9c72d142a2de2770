"""``python -m tests``: everything that must hold before a change lands, the cheapest checks first.

The tests run on the newest Postgres that is installed, and those that meet the database a second time on the oldest.
Arguments go on to pytest (``python -m tests -k streams``), which then runs once; ``--fix`` formats the code first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.postgres import versions

ROOT = Path(__file__).parent.parent

CHECKS = (
    ("ruff", "format", "--check", "."),
    ("ruff", "check", "."),
    ("mypy",),
    ("pyright", "--pythonpath", sys.executable),
    ("importlinter.cli", "lint-imports"),
)


def run(*command: str) -> None:
    """Run a module with this interpreter, and show its output; exit with its code if it fails."""
    print(f"── {' '.join(command)}", flush=True)
    if command[0] == "importlinter.cli":
        call = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    else:
        call = [sys.executable, "-m", *command]
    code = subprocess.run(call, cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Check, then test."""
    arguments = sys.argv[1:]
    if "--fix" in arguments:
        arguments.remove("--fix")
        run("ruff", "check", "--fix", "-q", ".")
        run("ruff", "format", "-q", ".")
    for check in CHECKS:
        run(*check)
    workers = ("-n", "4", "--dist", "worksteal")
    run("pytest", *workers, *arguments)
    if "DBOS_TEST_DATABASE_URL" in os.environ or "DBOS_TEST_POSTGRES" in os.environ or arguments:
        return
    installed = versions()
    if len(installed) < 2:
        print(f"── Postgres {installed}: there is no older one to repeat the tests on", flush=True)
        return
    print(f"── the tests that meet the database, on Postgres {installed[0]}", flush=True)
    os.environ["DBOS_TEST_POSTGRES"] = str(installed[0])
    run("pytest", *workers, "-m", "database and not newest_only")


main()
