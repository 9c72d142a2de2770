"""One round of one peer, in a process of its own: ``python -m tests.benchmarks.peer PEER URL BYTES SIZE [--uvloop] WORKLOAD…``.

Writes one line of JSON for each workload: its figures, or why it was skipped.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
from typing import Any

from tests.benchmarks.servers import PeerMissingError
from tests.benchmarks.workloads import SIZES

PEERS = {
    "ours": ("ours", "Ours"),
    "baseline": ("baseline", "Baseline"),
    "dbos": ("dbos_peer", "Transact"),
    "dbos-tuned": ("dbos_peer", "Tuned"),
    "redis": ("redis_peer", "Redis"),
    "nats": ("nats_peer", "Nats"),
}


def say(workload: str, **what: Any) -> None:
    """One line for the harness."""
    print(json.dumps({"workload": workload, **what}), flush=True)


async def play(peer: str, url: str, size: int, amount: str, workloads: list[str]) -> None:
    """Do the workloads, one after the other."""
    module, name = PEERS[peer]
    try:
        make: Any = getattr(importlib.import_module(f"tests.benchmarks.{module}"), name)
        async with make(url, size) as player:
            await player.warm_up()
            counts = SIZES[amount][player.is_slow]
            for workload in workloads:
                act = getattr(player, workload, None)
                if act is None:
                    say(workload, skipped="it has nothing of the kind")
                else:
                    say(workload, results=await act(counts[workload]))
    except (PeerMissingError, ModuleNotFoundError) as error:
        for workload in workloads:
            say(workload, skipped=str(error))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("url")
    parser.add_argument("size", type=int)
    parser.add_argument("amount", choices=SIZES)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("workloads", nargs="+")
    given = parser.parse_args()
    playing = play(given.peer, given.url, given.size, given.amount, given.workloads)
    if given.uvloop:
        importlib.import_module("uvloop").run(playing)
    else:
        asyncio.run(playing)


if __name__ == "__main__":
    main()
