"""``DBOS_TEST_LISTEN=off``: every DBOS and DBOSClient of the tests polls, and hears no notification. So do the programs of tests.

``tests/__init__.py`` sees to that, since each of those programs is a module of this package. An executor that was killed is missed
after its whole lease then, so tests of crashes take long: pass ``--timeout 600`` to pytest.
"""

from __future__ import annotations

import os
from typing import Final, TypedDict

VARIABLE: Final = "DBOS_TEST_LISTEN"

POLLS: Final = "polls"


def is_off() -> bool:
    """Whether the tests run so."""
    return os.environ.get(VARIABLE) == "off" or os.environ.get("DBOS_TEST_POOLER") == "polling"


def turn_off() -> None:
    """Let ``listen=False`` be the default, and what ``listen=True`` means, unless a URL says where to listen."""
    from dbos_async._database.access import Access  # not at import: some programs look at what is imported

    checked = Access.__post_init__

    def without_listening(self: Access) -> None:
        checked(self)
        if self.listen_url is None:
            object.__setattr__(self, "listen", False)

    Access.__post_init__ = without_listening  # type: ignore[method-assign]  # the one place that all of them pass


class Options(TypedDict):
    """Options of `DBOS` and of `DBOSClient`."""

    listen_url: str | None
    listen: bool


def options_of(words: list[str]) -> Options:
    """The options of a program whose last argument says how it listens: ``polls``, or the URL to listen; none: as always."""
    word = words[0] if words else None
    return {"listen_url": None if word == POLLS else word, "listen": word != POLLS}
