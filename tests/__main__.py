"""``python -m tests``: everything that must hold before a change lands, in the order of its price.

Arguments go on to pytest (``python -m tests -k streams``); ``--fix`` formats the code first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

CHECKS = (
    ("ruff", "format", "--check", "."),
    ("ruff", "check", "."),
    ("mypy",),
    ("pyright", "--pythonpath", sys.executable),
    ("importlinter.cli", "lint-imports"),
)

ABOUT_THE_DATABASE = (
    "promises/test_messages.py",
    "promises/test_events.py",
    "promises/test_streams.py",
    "statements/test_taking.py",
    "promises/test_workflows.py",
    "promises/test_replay.py",
    "statements/test_interleavings.py",
    "statements/test_statements.py",
    "statements/test_migrations.py",
)


def run(*command: str) -> None:
    """Run a module with this interpreter, showing what it says; end with its exit code if it fails."""
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
    run("pytest", "-n", "4", *arguments)
    if "DBOS_TEST_DATABASE_URL" not in os.environ and not arguments:
        print("── the same on an older Postgres, as far as the database matters", flush=True)
        os.environ["DBOS_TEST_POSTGRES"] = "16"
        run("pytest", "-n", "4", *(f"tests/{name}" for name in ABOUT_THE_DATABASE))


main()
