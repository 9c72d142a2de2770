"""A workflow that lasts: 1,000 generations and 100,000 messages, while its executor is killed.

    python -m tests.benchmarks.generations --kills 20

Tells whether every message came once and in order, and the most rows and bytes that each table had.
"""

from __future__ import annotations

import argparse
import asyncio

from tests.benchmarks.harness import server
from tests.support.databases import new_database
from tests.support.lasting import Lasted, last


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.generations")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--per-generation", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--url", help="a Postgres to use, on which databases can be created")
    return parser.parse_args(arguments)


async def play(url: str, given: argparse.Namespace) -> Lasted:
    """One agent in a new database."""
    async with new_database(url, "dbos_async_generations") as own:
        return await last(
            own, messages=given.messages, per_generation=given.per_generation, kills=given.kills,
            seconds_between_kills=(2.0, 20.0),
        )  # fmt: skip


def show(found: Lasted) -> str:
    """What people read of it."""
    lines = [f"{found.result}; generation {found.generation}, {found.kills} kills, {found.seconds:.0f} s"]
    lines.append(f"most messages that waited: {found.most_waiting:,}")
    for table, rows in found.most_rows.items():
        lines.append(
            f"{table}: at most {rows:,} rows{' received' if table == 'messages' else ''}, {found.most_bytes[table]:,} bytes"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    arguments = parse()
    with server(arguments.url) as url:
        print(show(asyncio.run(play(url, arguments))))
