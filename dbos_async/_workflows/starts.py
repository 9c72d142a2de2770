"""`Start`: which workflow a send starts if its destination is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, ParamSpec, overload

from dbos_async._runs.start_options import StartCall
from dbos_async._workflows.registry import call_by_name
from dbos_async._workflows.start import Workflow

P = ParamSpec("P")


class Start(StartCall, Generic[P]):
    """``Start(checkout, "a widget")``: the workflow that `DBOS.send` starts if its destination is not there, with its arguments.

    A workflow of another process is given by its name: ``Start("checkout", "a widget")``. A ``Start`` has no id of its own, and can
    be used for any number of sends. The arguments are encoded here, so a later change of them does not count.

    Raises `InvalidValueError` when the arguments are not JSON or do not fit their types, and `RegistrationError` when the function
    is no workflow.

    Example:
        ```python
        @DBOS.workflow()
        async def cart(owner: str) -> str:
            return f"{owner} takes {await DBOS.recv('item')}"

        for item in ("a widget", "a screw"):  # The second send finds the workflow.
            await DBOS.send("cart-7", item, "item", start=Start(cart, "Ada"))
        assert await (await DBOS.retrieve_workflow("cart-7")).get_result() == "Ada takes a widget"
        ```
    """

    if TYPE_CHECKING:

        @overload
        def __init__(self: Start[...], workflow: str, /, *args: Any, **kwargs: Any) -> None: ...
        @overload
        def __init__(self, workflow: Workflow[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None: ...

    def __init__(self, workflow: Any, /, *args: Any, **kwargs: Any) -> None:
        name, text, _ = call_by_name(workflow, args, kwargs)
        super().__init__(name, text)
