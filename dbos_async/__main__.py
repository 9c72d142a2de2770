"""``python -m dbos_async`` and ``dbos-async``: run the command line, or name the extra that it needs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from dbos_async.cli import app
    except ModuleNotFoundError as missing:
        if missing.name not in ("typer", "rich"):
            raise
        sys.exit("The command line needs its extra: pip install 'dbos_async[cli]'.")
    app(prog_name="dbos-async")


if __name__ == "__main__":
    main()
