"""The options that concern connections, to a type checker."""

from __future__ import annotations

from dbos_async import DBOS, DBOSClient


def plain() -> str:
    return "secret"


async def coroutine() -> str:
    return "secret"


def number() -> int:
    return 5


def made() -> None:
    DBOS("postgresql://", listen_url="postgresql://direct", schema="shop", max_connections=1, password=plain)
    DBOS("postgresql://", listen=False, password=coroutine)
    DBOSClient(
        "postgresql://", listen_url="postgresql://direct", schema="shop", max_connections=1, password=lambda: "secret"
    )
    DBOSClient("postgresql://", listen=False, password=coroutine)
    DBOS("postgresql://", password="secret")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    DBOSClient("postgresql://", password=number)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    DBOS("postgresql://", max_connections="8")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
