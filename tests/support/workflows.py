"""The smallest workflows."""

from __future__ import annotations

from typing import Any

from dbos_async import DBOS


@DBOS.workflow()
async def echo(value: Any) -> Any:
    return value


@DBOS.workflow()
async def wait_for_ever() -> None:
    await DBOS.recv("the end", None)


@DBOS.step()
async def echo_in_a_step(value: Any = None) -> Any:
    return value


class Echoes:
    """A class whose objects echo."""

    config_name = "echoes"

    @DBOS.workflow(name="echo of an object")
    async def echo(self, value: Any) -> Any:
        return value


ECHOES = DBOS.register_instance(Echoes())
