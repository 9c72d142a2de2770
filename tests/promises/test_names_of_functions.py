"""What one name registers: a module that is loaded twice registers once, and two functions of one name are refused (D5, W1, W4)."""

from __future__ import annotations

import asyncio
import functools
import operator
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS, RegistrationError, SetWorkflowID, WorkflowParkedError
from tests.support.eventually import eventually
from tests.support.modules import made_by


async def double(number: int) -> int:
    return 2 * number


MODULE = """
import functools
from dbos_async import DBOS
def undeclared(function):
    return lambda *args: function(*args)
@DBOS.step(name="{0} step")
async def step(): return __name__
@DBOS.step()
def {0}_own_name(): return __name__
chance = DBOS.step(name="{0} lambda")(lambda: 1)
part = DBOS.step(name="{0} partial")(functools.partial(max, 1, 2))
@DBOS.step(name="{0} undeclared")
@undeclared
def under(): return 1
@DBOS.workflow(name="{0} workflow")
async def workflow(): return [__name__, await step()]
class Shop:
    @DBOS.step(name="{0} static")
    @staticmethod
    def static(): return 1
    @DBOS.workflow(name="{0} of a class")
    @classmethod
    async def of_class(cls): return cls.__name__
"""


@pytest.mark.usefixtures("dbos")
@pytest.mark.parametrize("names", [("__main__", "app"), ("app", "src.app"), ("app", "app")])
async def test_d5_a_module_that_is_loaded_twice_registers_once(names: tuple[str, str], tmp_path: Path) -> None:
    of = "-".join(names)
    modules = [
        made_by(MODULE.format(of.replace("-", "_").replace(".", "_")), name, tmp_path / "app.py") for name in names
    ]
    for module in modules:  # what was loaded last is what runs
        assert await module.workflow() == [names[1], names[1]]
        assert await module.Shop.of_class() == "Shop"
    edited = "\n\n" + MODULE.format("edited")
    made_by(MODULE.format("edited").partition("chance")[0], "app", tmp_path / "edited.py")
    made_by(edited.partition("chance")[0], "app", tmp_path / "edited.py")  # as after an edit and a reload


def test_d5_a_program_that_imports_itself_registers_once(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        + MODULE.format("itself")
        + "if __name__ == '__main__':\n    import main\n    print(main.workflow.name)"
    )
    (tmp_path / "main.py").write_text(program)
    for command in (["main.py"], ["-m", "main"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.stdout, done.returncode) == ("itself workflow\n", 0), done.stderr


TWO: dict[str, str] = {
    "two lambdas": "DBOS.step(name='{0}')(lambda: 1)\nDBOS.step(name='{0}')(lambda: 2)",
    "two partials": "f = functools.partial\nDBOS.step(name='{0}')(f(max, 1))\nDBOS.step(name='{0}')(f(max, 2))",
    "two objects": "DBOS.step(name='{0}')([1].count)\nDBOS.step(name='{0}')([2].count)",
    "two of one decorator": "def d(f):\n    def w(): return f()\n    return w\n"
    "@DBOS.step()\n@d\ndef a_{1}(): return 1\n@DBOS.step()\n@d\ndef b_{1}(): return 2",
    "two defs": "@DBOS.step(name='{0}')\ndef a(): return 1\n@DBOS.step(name='{0}')\ndef b(): return 2",
}


@pytest.mark.parametrize("kinds", TWO)
def test_w4_two_steps_of_one_name_in_one_module_are_refused(kinds: str, tmp_path: Path) -> None:
    start = "import functools\nfrom dbos_async import DBOS\n"
    with pytest.raises(RegistrationError, match=r"^Two steps of one module are named .* with @DBOS.step\(name=…\)\.$"):
        made_by(start + TWO[kinds].format(kinds, kinds.replace(" ", "_")), "two", tmp_path / "two.py")


def test_w1_two_workflows_behind_one_decorator_are_refused() -> None:
    def one(number: int) -> Coroutine[Any, Any, int]:
        return double(number)

    DBOS.workflow()(undeclared_awaitable(one))
    with pytest.raises(RegistrationError, match="Two workflows are named 'undeclared_awaitable.<locals>.wrapper'"):
        DBOS.workflow()(undeclared_awaitable(double))


def undeclared_awaitable(
    function: Callable[[int], Coroutine[Any, Any, int]],
) -> Callable[[int], Coroutine[Any, Any, int]]:
    """A decorator without `functools.wraps` that makes an async def."""

    async def wrapper(number: int) -> int:
        return await function(number)

    return wrapper


@pytest.mark.usefixtures("dbos")
async def test_w4_a_workflow_may_make_steps_and_two_of_one_name_are_refused_in_it() -> None:
    @DBOS.workflow(name="makes its steps")
    async def work(number: int, is_wrong: bool) -> int:
        @DBOS.step()
        async def local() -> int:
            return number

        many = [await DBOS.step(name=f"{number} of many")(lambda: number)() for _ in range(2)]
        if is_wrong:
            DBOS.step(name=f"{number} of many")(lambda: number + 1)
        return sum(many) + await local()

    assert await asyncio.gather(*(work(number, False) for number in (1, 2, 3))) == [3, 6, 9]
    with pytest.raises(RegistrationError, match="Two steps of one module are named '4 of many'"):
        await work(4, True)


async def test_w4_a_replay_never_gives_a_step_the_result_of_another(database_url: str) -> None:
    calls: list[str] = []
    charge = DBOS.step(name="the charge")(functools.partial(operator.iadd, calls, ["charge"]))
    refund = DBOS.step(name="the refund")(functools.partial(operator.iadd, calls, ["refund"]))
    order = [charge, refund]

    @DBOS.workflow(name="calls two of one shape")
    async def work() -> None:
        for step in order:
            await step()
        await DBOS.recv("go", None)

    async def waits() -> bool:
        return len(await DBOS.list_workflow_steps("w")) == 3

    async def is_parked() -> bool:
        return (await (await DBOS.retrieve_workflow("w")).get_status()).status == "REPLAY_MISMATCH"

    async with DBOS(database_url, executor_id="program"):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(work)
        await eventually(waits)
    order.reverse()  # the code has changed
    async with DBOS(database_url, executor_id="program"):
        await eventually(is_parked)
    assert calls == ["charge", "refund"]


STEP_OF_TWO_MODULES = """
from dbos_async import DBOS
CALLS = []
@DBOS.step()
async def charge_in_two_modules():
    CALLS.append(__name__)
    return __name__
"""


async def test_w4_steps_of_one_name_in_two_modules_are_told_apart_by_what_is_recorded(
    database_url: str, tmp_path: Path
) -> None:
    orders: Any = made_by(STEP_OF_TWO_MODULES, "orders", tmp_path / "orders.py")
    modules = [orders]

    @DBOS.workflow(name="calls a step of each module")
    async def work() -> list[str]:
        await DBOS.recv("begin", None)
        names = [await module.charge_in_two_modules() for module in modules]
        await DBOS.recv("go", None)
        return names

    async def recorded(workflow_id: str) -> list[str | None]:
        return [step.key for step in await DBOS.list_workflow_steps(workflow_id) if step.verb == "step"]

    async def start(workflow_id: str) -> None:
        with SetWorkflowID(workflow_id):
            await DBOS.start_workflow(work)
        await DBOS.send(workflow_id, None, "begin")
        await eventually(lambda: _has_steps(recorded, workflow_id, len(modules)))

    async with DBOS(database_url, executor_id="program"):
        await start("of one")
        assert await recorded("of one") == ["charge_in_two_modules"]
    refunds: Any = made_by(STEP_OF_TWO_MODULES, "refunds", tmp_path / "refunds.py")
    async with DBOS(database_url, executor_id="program"):
        # What was recorded when the name was that of one step replays.
        await DBOS.send("of one", None, "go")
        assert await (await DBOS.retrieve_workflow("of one")).get_result() == ["orders"]
        modules.append(refunds)
        for workflow_id in ("of two", "swapped"):
            await start(workflow_id)
        assert await recorded("of two") == ["charge_in_two_modules (orders)", "charge_in_two_modules (refunds)"]
    async with DBOS(database_url, executor_id="program"):
        await DBOS.send("of two", None, "go")
        assert await (await DBOS.retrieve_workflow("of two")).get_result() == ["orders", "refunds"]
    modules.reverse()  # the code has changed
    async with DBOS(database_url, executor_id="program"):
        swapped = await DBOS.retrieve_workflow("swapped")
        with pytest.raises(WorkflowParkedError):
            await swapped.get_result()
        problem = (await swapped.get_status()).error
    assert "'charge_in_two_modules (orders)'" in str(problem)
    assert "'charge_in_two_modules (refunds)'" in str(problem)
    assert (orders.CALLS, refunds.CALLS) == (["orders"] * 3, ["refunds"] * 2)


async def _has_steps(recorded: Callable[[str], Coroutine[Any, Any, list[Any]]], workflow_id: str, count: int) -> bool:
    return len(await recorded(workflow_id)) == count
