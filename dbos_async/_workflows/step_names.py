"""Under which name a step is recorded: its own, and with its module where steps of several modules share it.

So a replay never gives one of them the result of the other, and an import of a second module with such a step changes nothing for
what was recorded before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from dbos_async._runs.context import current
from dbos_async._runs.own_ids import are_same
from dbos_async._workflows.shapes import Origin, Shape
from dbos_async.errors import RegistrationError

_origins: dict[str, list[Origin]] = {}
"""The origins of the steps of each name that were decorated outside of runs: one, or one of each module that has such a step."""

_origins_in: WeakKeyDictionary[asyncio.Task[None], dict[str, list[Origin]]] = WeakKeyDictionary()
"""The same for the steps that the code of a run decorates, by its main task: they may be many, and are forgotten with the run."""


class RecordedName(Protocol):
    """Under which name a step is recorded, and which recorded names are those of this step."""

    @property
    def recorded(self) -> str:
        """The name."""
        ...

    async def is_same(self, step: Any, recorded: str, ids: Sequence[str], /) -> bool:
        """Whether the step may have recorded this name."""
        ...


class StepName:
    """The name of one step, beside those of other modules. It compares what a replay finds with it (`KeyMatcher`)."""

    __slots__ = ("_name", "_origins", "_with_module")

    def __init__(self, shape: Shape) -> None:
        """Raises `RegistrationError` for a second step of this name in one module."""
        self._name = shape.name
        self._with_module = f"{shape.name} ({shape.origin.module_name})"
        self._origins = _add(shape)

    @property
    def recorded(self) -> str:
        """Under which name the step is recorded from now on."""
        return self._name if len(self._origins) == 1 else self._with_module

    async def is_same(self, step: Any, recorded: str, ids: Sequence[str], /) -> bool:
        """Whether the step may have recorded this name: when it was the only one of its name, or one of several."""
        return any(are_same([recorded], [name], ids) for name in (self._name, self._with_module))


def _add(shape: Shape) -> list[Origin]:
    context = current.get()
    run = None if context is None else context.run.main_task
    if run is None:
        known = _origins.setdefault(shape.name, [])
    else:
        known = _origins_in.setdefault(run, {}).setdefault(shape.name, list(_origins.get(shape.name, ())))
    for place, origin in enumerate(known):
        if origin.is_same(shape.origin):
            known[place] = shape.origin
            return known
        if origin.module_name == shape.origin.module_name:
            raise RegistrationError(
                f"Two steps of one module are named {shape.name!r} ({origin} and {shape.origin}), so a replay could give one "
                "of them the result of the other: give one of them another name with @DBOS.step(name=…)."
            )
    known.append(shape.origin)
    return known
