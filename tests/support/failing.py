"""Exceptions whose texts need more than JSON can say."""

from __future__ import annotations

from enum import Enum

from tests.support.models import NOW


class Kind(Enum):
    BUSY = "busy"


class Client:
    name = "a client"


class ServiceError(Exception):
    """Its text needs what its class and its attributes have, and some of it is no JSON."""

    def __init__(self, kind: Kind, client: Client | None = None) -> None:
        super().__init__("the service failed")
        self.kind, self.client, self.at = kind, client, NOW

    def __str__(self) -> str:
        return f"the service is {self.kind.value} since {self.at:%Y} {self.client.name if self.client else ''}"


def local_error(text: str) -> Exception:
    """An exception of a class of its own, which nobody can import."""

    class OwnError(Exception):
        def __str__(self) -> str:
            return f"{text}: {self.args[0]}"

    return OwnError("x")
