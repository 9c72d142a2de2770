"""The names in our SQL that differ from database to database: the schema, and the channels for notifications.

The files of SQL write them as ``dbos_async.workflows`` and ``__channel__``. Every connection of the library translates what it
executes, so nothing else has to know of it. What is not translated: ``dbos_async.errors:…``, the name of a class.
"""

from __future__ import annotations

import re
from typing import Final

from dbos_async._database.access import DEFAULT_SCHEMA

CHANNEL: Final = "__channel__"

_SCHEMA: Final = re.compile(r"\bdbos_async\.(?!errors:)")


class Names:
    """The names of one database, shared by all connections of a process to it."""

    def __init__(self, schema: str) -> None:
        self.schema: Final = schema
        self._channel = ""
        self._texts: dict[str, str] = {}

    @property
    def channel(self) -> str:
        """The first part of the names of all channels; empty before it is known."""
        return self._channel

    @channel.setter
    def channel(self, channel: str) -> None:
        self._channel = channel
        self._texts.clear()

    def __call__(self, sql: str) -> str:
        """This SQL with the names of this database. The texts of the library are constants, so each is translated once."""
        text = self._texts.get(sql)
        if text is None:
            text = self._texts[sql] = self._translate(sql)
        return text

    def _translate(self, sql: str) -> str:
        if self.schema != DEFAULT_SCHEMA:
            sql = _SCHEMA.sub(f'"{self.schema}".', sql)
        return sql.replace(CHANNEL, self._channel)
