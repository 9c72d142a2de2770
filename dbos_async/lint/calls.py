"""What a replay does not repeat, by full names as `names.py` finds them: ``()`` stands for the result of a call."""

from __future__ import annotations

import ast
from typing import Final

HTTP: Final = "delete get head options patch post put request"
FILE: Final = "exists open read_bytes read_text unlink write_bytes write_text"


def _of(owner: str, names: str) -> tuple[str, ...]:
    return tuple(f"{owner}.{name}" for name in names.split())


WAITS: Final = "is not recorded and waits anew in a replay: use DBOS.sleep"
BLOCKS: Final = "blocks the event loop and waits anew in a replay: use DBOS.sleep"
CLOCK: Final = "gives another time in a replay: use DBOS.now, or call it in a step"
CHANCE: Final = "gives another value in a replay: use DBOS.random or DBOS.uuid, or call it in a step"
THREAD: Final = "is not recorded and runs again in a replay: make it a step (a def step runs in a thread)"
OUTSIDE: Final = "is not recorded and happens again in a replay: call it in a step"
SETTING: Final = "may give another value in a replay: read it in a step, or pass it as an argument"
CLIENT: Final = "is not recorded and happens again in a replay: use the verbs of DBOS"
TIMER: Final = "starts anew in a replay: use timeout_seconds of {verb}"

NAMES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (WAITS, ("asyncio.sleep", "anyio.sleep", "anyio.sleep_until")),
    (BLOCKS, ("time.sleep",)),
    (
        CLOCK,
        _of("time", "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns"),
    ),
    (CLOCK, _of("time", "thread_time thread_time_ns clock_gettime clock_gettime_ns")),
    (CLOCK, (*_of("datetime.datetime", "now utcnow today"), "datetime.date.today", "loop.time", "anyio.current_time")),
    (CHANCE, ("random.*", "secrets.*", "numpy.random.*", *_of("uuid", "uuid1 uuid4 uuid6 uuid7"))),
    (CHANCE, _of("os", "urandom getrandom")),
    (THREAD, ("asyncio.to_thread", "loop.run_in_executor", "anyio.to_thread.run_sync", "anyio.to_process.run_sync")),
    (
        OUTSIDE,
        ("open", "input", "io.open", "anyio.open_file", *_of("pathlib.Path()", FILE), *_of("anyio.Path()", FILE)),
    ),
    (OUTSIDE, _of("asyncio", "create_subprocess_exec create_subprocess_shell open_connection")),
    (OUTSIDE, ("os.system", *_of("subprocess", "call check_call check_output run Popen"))),
    (OUTSIDE, _of("anyio", "connect_tcp open_process run_process")),
    (OUTSIDE, (*_of("httpx", f"{HTTP} stream"), *_of("requests", HTTP), "aiohttp.request")),
    (OUTSIDE, (*_of("httpx.Client()", f"{HTTP} send stream"), *_of("httpx.AsyncClient()", f"{HTTP} send stream"))),
    (OUTSIDE, (*_of("requests.Session()", f"{HTTP} send"), *_of("requests.session()", f"{HTTP} send"))),
    (OUTSIDE, (*_of("aiohttp.ClientSession()", f"{HTTP} ws_connect"), *_of("urllib.request", "urlopen urlretrieve"))),
    (SETTING, ("os.environ", "os.environ.get", "os.getenv")),
    (CLIENT, ("dbos_async.DBOSClient().*",)),
)
"""What is reported, with the end of its sentence. A star stands for every function at its place."""

WHY: Final = {name: why for why, names in NAMES for name in names}

SAME_AGAIN: Final = {"secrets.compare_digest"}
"""Names under a star that give the same in a replay."""

SEEDED: Final = {"random.Random", *_of("numpy.random", "default_rng RandomState SeedSequence PCG64")}
"""What gives the same in a replay when it is given a seed."""

TELLS_TIME: Final = {"time.localtime": 0, "time.gmtime": 0, "time.ctime": 0, "time.asctime": 0, "time.strftime": 1}
"""What tells the time of day when it is given no more arguments than this."""

TIMERS: Final = {*_of("asyncio", "timeout timeout_at wait_for"), *_of("anyio", "move_on_after fail_after")}

HAVE_TIME_LIMIT: Final = ("get_event", "recv", "recv_envelope")
"""The verbs that one awaits with ``timeout_seconds``."""


def why(name: str, call: ast.Call) -> str | None:
    """The end of the sentence about this call; ``None`` if a replay repeats it."""
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    if name in TELLS_TIME:
        return CLOCK if len(arguments) <= TELLS_TIME[name] else None
    if name in SAME_AGAIN or (name in SEEDED and arguments):
        return None
    found = WHY.get(name) or WHY.get(f"{name.rpartition('.')[0]}.*")
    if found in (WAITS, BLOCKS) and any(
        isinstance(first, ast.Constant) and first.value == 0 for first in arguments[:1]
    ):
        return None  # it lets other tasks run, and does so in a replay
    return found
