"""What `DBOS` registers besides functions: objects whose methods are workflows."""

from __future__ import annotations

from typing import TypeVar

from dbos_async._executor import launched
from dbos_async._workflows.owners import register_object
from dbos_async._workflows.shapes import decorating_frame

T = TypeVar("T")


class RegisteringVerbs:
    """The part of `DBOS` that registers objects. It needs no launched executor."""

    @staticmethod
    def register_instance(instance: T, name: str | None = None) -> T:
        """Register an object before the launch, so that the methods of its class that are workflows run for it. Returns it.

        A workflow is recorded with the object's class and ``name`` (``None``: its ``config_name``), and another process goes on
        with the object that it has registered so: `Shop.checkout@berlin`. An executor without such an object leaves it, and
        says so in its log. The object is kept for as long as the process lives. To register it twice is a no-op.

        Raises `RegistrationError` for an object without a name or without workflows, for a second object of the class with this
        name, and after the launch; `InvalidArgumentError` when the name cannot be used.

        Example:
            ```python
            class Shop:
                def __init__(self, city: str) -> None:
                    self.config_name = city

                @DBOS.workflow()
                async def checkout(self, item: str) -> str:
                    return f"{item} from {self.config_name}"

            berlin = DBOS.register_instance(Shop("berlin"))  # before the launch
            async with DBOS():
                assert await berlin.checkout("a widget") == "a widget from berlin"
            ```
        """
        register_object(instance, name, decorating_frame(), is_launched=launched.is_launched())
        return instance
