"""The page: what runs, what waits, and what needs a person, in a browser. It needs the extra ``page``.

    app.mount("/dbos", page(allow=is_admin))

Or by itself: ``dbos-async page postgresql://localhost/shop --read-only``.
"""

from __future__ import annotations

from starlette.applications import Starlette

from dbos_async._checks import check_callable, check_flag, check_instance
from dbos_async._page.guard import Allow
from dbos_async._page.routes import application
from dbos_async._page.site import Launched, Site
from dbos_async.client import DBOSClient

__all__ = ["Allow", "page"]


def page(*, client: DBOSClient | None = None, allow: Allow | None = None, read_only: bool = False) -> Starlette:
    """An application to mount, which shows workflows, messages and streams to people, and lets them act.

    It reads by ``client``, which the application that mounts it opens and closes, or by the launched `DBOS`.

    ``allow`` says who may see it: ``async def (request) -> bool``, or a ``def``, which runs in a thread. It is asked at each
    request, and whoever it refuses gets a 403. The stylesheet and the scripts are free. Without ``allow`` only a browser on this
    machine is answered, under a name of this machine and without a proxy between: enough to develop, and nothing for a server.

    ``read_only=True`` leaves all actions out, and refuses them. Else they need a token of the page and a request from the page
    itself, so that no other site can act in the name of a visitor.

    Raises `InvalidArgumentError` when an argument cannot be used.

    Example:
        ```python
        async def is_admin(request: Request) -> bool:
            return request.headers.get("x-user") in {"ada", "grace"}

        app = FastAPI(lifespan=lifespan())
        app.mount("/dbos", page(allow=is_admin))
        ```
    """
    if client is not None:
        check_instance(client, DBOSClient, "client")
    if allow is not None:
        check_callable(allow, "allow")
    read_only = check_flag(read_only, "read_only")
    return application(Site(Launched() if client is None else client, client, read_only), allow)
