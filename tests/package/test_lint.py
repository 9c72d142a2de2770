"""The lint: what it reports in workflows, and what it leaves alone."""

from __future__ import annotations

import textwrap

import pytest

from dbos_async.lint import Finding, check_source


def in_workflow(lines: str, imports: str = "") -> list[Finding]:
    """What is found in a workflow with this body."""
    head = f"{imports}\nfrom dbos_async import DBOS\n\n@DBOS.workflow()\nasync def checkout(x=None):\n"
    return check_source(head + textwrap.indent(textwrap.dedent(lines), "    "))


def calls(source: str) -> list[tuple[str, str]]:
    """What is found in a module: the calls, each with its workflow."""
    return [(finding.call, finding.workflow) for finding in check_source(textwrap.dedent(source))]


REPORTED = [
    ("import asyncio", "await asyncio.sleep(1)", "asyncio.sleep"),
    ("import asyncio", "await asyncio.sleep(x)", "asyncio.sleep"),
    ("import asyncio", "await asyncio.sleep(delay=0.5)", "asyncio.sleep"),
    ("import asyncio as aio", "await aio.sleep(1)", "asyncio.sleep"),
    ("from asyncio import sleep", "await sleep(1)", "asyncio.sleep"),
    ("from asyncio import sleep as nap", "await nap(1)", "asyncio.sleep"),
    ("import anyio", "await anyio.sleep(1)", "anyio.sleep"),
    ("import time", "time.sleep(1)", "time.sleep"),
    ("import time", "return time.time()", "time.time"),
    ("from time import monotonic", "return monotonic()", "time.monotonic"),
    ("import time", "return time.perf_counter()", "time.perf_counter"),
    ("import time", "return time.time_ns()", "time.time_ns"),
    ("import time", "return time.localtime()", "time.localtime"),
    ("import time", "return time.strftime('%H')", "time.strftime"),
    ("import asyncio", "return asyncio.get_running_loop().time()", "loop.time"),
    ("import asyncio", "loop = asyncio.get_running_loop()\nreturn loop.time()", "loop.time"),
    ("from datetime import datetime", "return datetime.now()", "datetime.datetime.now"),
    ("from datetime import datetime, UTC", "return f'{datetime.now(UTC):%H}'", "datetime.datetime.now"),
    ("import datetime as dt", "return dt.datetime.utcnow()", "datetime.datetime.utcnow"),
    ("from datetime import datetime", "return datetime.today()", "datetime.datetime.today"),
    ("from datetime import date", "return date.today()", "datetime.date.today"),
    ("import random", "return random.random()", "random.random"),
    ("from random import choice as pick", "return pick([1, 2])", "random.choice"),
    ("import random", "return random.Random().random()", "random.Random"),
    ("import random", "return random.SystemRandom().random()", "random.SystemRandom"),
    ("import numpy as np", "return np.random.rand()", "numpy.random.rand"),
    ("import numpy as np", "return np.random.default_rng().random()", "numpy.random.default_rng"),
    ("import secrets", "return secrets.token_hex()", "secrets.token_hex"),
    ("import uuid", "return uuid.uuid4()", "uuid.uuid4"),
    ("from uuid import uuid1", "return str(uuid1())", "uuid.uuid1"),
    ("import os", "return os.urandom(8)", "os.urandom"),
    ("import asyncio", "await asyncio.to_thread(print)", "asyncio.to_thread"),
    ("import asyncio", "await asyncio.get_event_loop().run_in_executor(None, x)", "loop.run_in_executor"),
    ("import anyio", "await anyio.to_thread.run_sync(x)", "anyio.to_thread.run_sync"),
    ("from anyio import to_thread", "await to_thread.run_sync(x)", "anyio.to_thread.run_sync"),
    ("", "return open('x').read()", "open"),
    ("", "with open('x') as file:\n    return file.read()", "open"),
    ("", "return input()", "input"),
    ("from pathlib import Path", "return Path('x').read_text()", "pathlib.Path.read_text"),
    ("import os", "return os.getenv('X')", "os.getenv"),
    ("from os import environ", "return environ.get('X')", "os.environ.get"),
    ("import os", "return os.environ['X']", "os.environ"),
    ("import subprocess", "subprocess.run(['ls'])", "subprocess.run"),
    ("import asyncio", "await asyncio.create_subprocess_exec('ls')", "asyncio.create_subprocess_exec"),
    ("import requests", "return requests.get('u').json()", "requests.get"),
    ("import httpx", "return httpx.post('u')", "httpx.post"),
    ("import httpx", "async with httpx.AsyncClient() as c:\n    return await c.get('u')", "httpx.AsyncClient.get"),
    ("import httpx\nclient = httpx.Client()", "return client.get('u')", "httpx.Client.get"),
    ("from aiohttp import ClientSession", "async with ClientSession() as s:\n    await s.post('u')", "aiohttp.ClientSession.post"),
    ("from urllib.request import urlopen", "return urlopen('u')", "urllib.request.urlopen"),
    ("from dbos_async import DBOSClient", "async with DBOSClient() as c:\n    await c.send('w', 1)", "dbos_async.DBOSClient.send"),
    ("from dbos_async.client import DBOSClient\nc = DBOSClient()", "await c.send('w', 1)", "dbos_async.DBOSClient.send"),
    ("import asyncio", "async with asyncio.timeout(5):\n    return await DBOS.recv('t')", "asyncio.timeout"),
    ("import asyncio", "async with asyncio.timeout(5):\n    x = await DBOS.get_event('w', 'k')", "asyncio.timeout"),
    ("import asyncio", "return await asyncio.wait_for(DBOS.recv('t'), 5)", "asyncio.wait_for"),
    ("from anyio import move_on_after", "with move_on_after(5):\n    await DBOS.recv_envelope('t')", "anyio.move_on_after"),
]  # fmt: skip


@pytest.mark.parametrize(("imports", "lines", "name"), REPORTED, ids=[f"{each[0]}-{each[1]}" for each in REPORTED])
def test_it_reports_what_a_replay_does_not_repeat(imports: str, lines: str, name: str) -> None:
    (finding,) = in_workflow(lines, imports)
    assert (finding.call, finding.workflow) == (name, "checkout")


LEFT_ALONE = [
    ("import asyncio", "await asyncio.sleep(0)"),
    ("import anyio", "await anyio.sleep(delay=0)"),
    ("", "await DBOS.sleep(5)"),
    ("import time", "return time.strftime('%H', x)"),
    ("import time", "return time.gmtime(0)"),
    ("from datetime import datetime", "return datetime(2026, 1, 1), datetime.fromisoformat(x)"),
    ("import random", "return random.Random(17).random()"),
    ("import numpy as np", "rng = np.random.default_rng(seed=17)\nreturn rng.random()"),
    ("import secrets", "return secrets.compare_digest('a', 'b')"),
    ("import uuid", "return uuid.uuid5(uuid.NAMESPACE_URL, 'u')"),
    ("import httpx", "return httpx.URL('u'), httpx.AsyncClient()"),
    ("from dbos_async import DBOSClient", "return DBOSClient('u')"),
    ("import asyncio", "async with asyncio.timeout(5):\n    await DBOS.recv('a')\n    await DBOS.recv('b')"),
    ("import asyncio", "async with asyncio.timeout(5):\n    await x"),
    ("import asyncio", "return await asyncio.wait_for(x, 5)"),
    ("import asyncio", "return await DBOS.recv('t', timeout_seconds=5)"),
    ("from pathlib import Path", "return Path('x').name"),
    ("import os", "os.environ['X'] = 'x'"),
    ("", "return print(x)"),
    ("", "return x.open('y'), x.sleep(1), x[0](1), (lambda: 1)()"),
    ("from mine import sleep, time", "return time.time(), sleep(1)"),
    ("from . import random", "return random.random()"),
    ("import time", "time = x\nreturn time.time()"),
    ("import time", "return [time.time() for time in x]"),
    ("import time", "return lambda time: time.time()"),
    ("import time", "def ask(*, time):\n    return time.time()"),
    ("from mine import open", "return open('x')"),
    ("", "def open(name):\n    return name\nreturn open('x')"),
    ("now = later\nlater = now", "return now(), later()"),
]  # fmt: skip


@pytest.mark.parametrize(("imports", "lines"), LEFT_ALONE, ids=[f"{each[0]}-{each[1]}" for each in LEFT_ALONE])
def test_it_leaves_alone_what_a_replay_repeats(imports: str, lines: str) -> None:
    assert in_workflow(lines, imports) == []


FRAMES = {
    "a loop": "for _ in range(3):\n    if time.time():\n        pass",
    "a comprehension": "return [time.time() for _ in range(3)]",
    "a lambda": "return sorted([], key=lambda _: time.time())",
    "a default": "def ask(now=time.time()): ...",
    "a function": "def ask():\n    return time.time()\nreturn ask()",
    "a function in a function": "async def ask():\n    async def again():\n        time.time()\n    await again()",
    "a function under some decorator": "@cached\ndef ask():\n    return time.time()",
    "the body of a class": "class Now:\n    now = time.time()",
    "a method of a class": "class Now:\n    def now(self):\n        return time.time()",
    "an f-string": "return f'at {time.time()}'",
    "an argument of a step": "return await charge(time.time())",
    "an argument of a decorator": "@DBOS.step(interval_seconds=time.time())\ndef inner(): ...",
    "a match": "match x:\n    case 1 if time.time():\n        pass",
    "an import of its own": "import time as clock\nreturn clock.time()",
    "another name": "now = time.time\nreturn now()",
    "an import with a replacement": "try:\n    import time as clock\nexcept ImportError:\n    clock = None\nreturn clock.time()",
}  # fmt: skip


@pytest.mark.parametrize("lines", FRAMES.values(), ids=FRAMES)
def test_it_looks_into_the_whole_frame_of_a_workflow(lines: str) -> None:
    assert [finding.call for finding in in_workflow(lines, "import time")] == ["time.time"]


STEPS = {
    "a step": "@DBOS.step()\nasync def ask():\n    return time.time()\nreturn await ask()",
    "a def step with options": "@DBOS.step(retries_allowed=True)\ndef ask():\n    return time.time()",
    "a function in a step": "@DBOS.step()\ndef ask():\n    return (lambda: time.time())()",
    "a step by a call": "def ask():\n    return time.time()\nstep = DBOS.step(name='ask')(ask)\nreturn await step()",
    "a lambda that is made a step": "return await DBOS.step(name='ask')(lambda: time.time())()",
    "a lambda that is run as a step": "return await DBOS.run_step('ask', lambda: time.time())",
    "a function that is run as a step": "async def ask():\n    return time.time()\nreturn await DBOS.run_step('ask', ask)",
    "a function that is no call": "return await DBOS.run_step('ask', time.time)",
}


@pytest.mark.parametrize("lines", STEPS.values(), ids=STEPS)
def test_it_does_not_look_into_steps(lines: str) -> None:
    assert in_workflow(lines, "import time") == []


DECORATORS = {
    "the class": "from dbos_async import DBOS\n@DBOS.workflow()",
    "options": "from dbos_async import DBOS\n@DBOS.workflow(name='x', max_recovery_attempts=3)",
    "another name": "from dbos_async import DBOS as Durable\n@Durable.workflow()",
    "the package": "import dbos_async\n@dbos_async.DBOS.workflow()",
    "the package under another name": "import dbos_async as d\n@d.DBOS.workflow()",
    "the module": "from dbos_async.dbos import DBOS as Durable\n@Durable.workflow()",
    "a star": "from dbos_async import *\n@DBOS.workflow()",
    "an instance": "from dbos_async import DBOS\ndbos = DBOS()\n@dbos.workflow()",
    "an instance under another name": "from dbos_async import DBOS\nengine = DBOS('url')\n@engine.workflow()",
    "an instance from elsewhere": "from .setup import dbos\n@dbos.workflow()",
    "an attribute": "@app.state.dbos.workflow()",
    "the decorator under another name": "from dbos_async import DBOS\nworkflow = DBOS.workflow\n@workflow()",
    "several decorators": "from dbos_async import DBOS\n@staticmethod\n@DBOS.workflow()\n@traced",
}


@pytest.mark.parametrize("head", DECORATORS.values(), ids=DECORATORS)
def test_it_knows_a_workflow_by_its_decorator(head: str) -> None:
    assert calls(f"import time\n{head}\nasync def checkout():\n    time.time()\n") == [("time.time", "checkout")]


OTHERS = {
    "a plain function": "async def checkout():",
    "a step": "from dbos_async import DBOS\n@DBOS.step()\nasync def checkout():",
    "another library": "from dbos import DBOS\n@DBOS.workflow()\ndef checkout():",
    "its module": "import dbos\n@dbos.DBOS.workflow()\ndef checkout():",
    "another decorator": "@app.workflow()\nasync def checkout():",
    "a call around it": "from dbos_async import DBOS\n@DBOS.workflow\nclass Checkout:",
}


@pytest.mark.parametrize("head", OTHERS.values(), ids=OTHERS)
def test_it_looks_at_nothing_else(head: str) -> None:
    assert calls(f"import time\nnow = time.time()\n{head}\n    time.time()\n") == []


def test_each_workflow_has_its_own() -> None:
    source = """
        import time
        from dbos_async import DBOS

        class Orders:
            time = None

            @staticmethod
            @DBOS.workflow()
            async def place():
                time.time()

        @DBOS.workflow(name=str(time.time()))
        async def outer():
            @DBOS.workflow()
            async def inner():
                time.monotonic()
            time.time()

        def make(dbos, time):
            @dbos.workflow()
            async def made():
                time.time()
                global clock
                clock = time
                clock.time()

        import time as clock
    """
    assert calls(source) == [
        ("time.time", "place"),
        ("time.monotonic", "inner"),
        ("time.time", "outer"),
        ("time.time", "made"),
    ]


SILENT = {
    "on the line": "time.time()  # replay: ok",
    "with a reason": "time.time()  # replay: ok, it is only logged",
    "beside another comment": "time.time()  # noqa: X1 # replay:ok",
    "on the first line of the call": "print(time.strftime(  # replay: ok\n    '%H',\n))",
    "on the last line of the call": "print(time.strftime(\n    '%H',\n))  # replay: ok",
}


@pytest.mark.parametrize("lines", SILENT.values(), ids=SILENT)
def test_a_comment_lets_a_call_pass(lines: str) -> None:
    assert in_workflow(lines, "import time") == []


NOT_SILENT = ["# replay: ok\ntime.time()", "print('# replay: ok', time.time())", "time.time()  # replay: okay"]


@pytest.mark.parametrize("lines", NOT_SILENT)
def test_only_a_comment_on_the_line_does(lines: str) -> None:
    assert len(in_workflow(lines, "import time")) == 1


def test_a_finding_is_one_line_that_says_what_to_do() -> None:
    (finding,) = in_workflow("print('é', await asyncio.sleep(1))", "import asyncio")
    assert str(finding) == (
        "<string>:6:22: asyncio.sleep in workflow 'checkout' is not recorded and waits anew in a replay: use DBOS.sleep."
    )
    (timer,) = in_workflow("async with asyncio.timeout(5):\n    await DBOS.recv('t')", "import asyncio")
    assert str(timer).endswith(
        "asyncio.timeout in workflow 'checkout' starts anew in a replay: use timeout_seconds of recv."
    )


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_findings_are_in_order_whatever_ends_a_line(newline: str) -> None:
    found = in_workflow("a = time.time(), time.monotonic()\nb = time.time()", "import time")
    assert [(each.line, each.column) for each in found] == [(6, 9), (6, 22), (7, 9)]
    source = "import time\n@dbos.workflow()\nasync def checkout():\n    time.time()\n"
    assert [each.line for each in check_source(source.replace("\n", newline))] == [4]
