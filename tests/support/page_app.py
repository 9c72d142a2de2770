"""The page, served with an application that has every kind of trouble."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from dbos_async import DBOS
from dbos_async.page import page
from tests.support.page_seed import parked, seed
from tests.support.web import serving


def mounted(prefix: str = "/dbos", **options: Any) -> Starlette:
    """The page in an application."""
    return Starlette(routes=[Mount(prefix, page(**options))])


@asynccontextmanager
async def served_page(url: str, **options: Any) -> AsyncIterator[str]:
    """The address of the page, whose application runs what was seeded."""
    await seed(url)
    async with DBOS(url, executor_id="shop-2", application_version="2.1"), serving(mounted(**options)) as address:
        await parked()
        yield f"{address}/dbos/"
