"""The ids of workflows and messages: version 7, and none is made twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import RFC_4122, UUID

import pytest

from dbos_async._serialization.ids import ordered_id

FORKS = """
import os, sys
from dbos_async._serialization.ids import ordered_id

ordered_id()  # Whatever it keeps for the next ids, a fork has a copy of.
child = os.fork()
tails = [str(ordered_id())[14:] for _ in range(5)]
if child:
    os.waitpid(child, 0)
print(*tails, sep="\\n", flush=True)
os._exit(0)
"""


def test_ids_are_of_version_7_and_grow_with_time() -> None:
    before = time.time_ns() // 1_000_000
    made = [ordered_id() for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    times = [each.int >> 80 for each in made]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= after
    assert {(each.version, each.variant) for each in made} == {(7, RFC_4122)}
    assert len({each.int & (1 << 62) - 1 for each in made}) == len(made)
    assert all(UUID(str(each)) == each for each in made)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_forked_process_does_not_give_the_ids_of_its_parent(tmp_path: Path) -> None:
    (tmp_path / "forks.py").write_text(FORKS)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "forks.py")], capture_output=True, text=True, check=False, timeout=60
    )
    tails = done.stdout.split()
    assert len(set(tails)) == len(tails) == 10, done
