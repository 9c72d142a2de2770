"""What differs in our SQL from database to database: the schema, the channels for notifications, what the role is denied.

The files of SQL write them as ``dbos_async.workflows``, ``'dbos_async'`` and ``__channel__``. Every connection of the library
translates what it executes, so nothing else has to know of it; on connections of users the caller does. Not translated are
``dbos_async.errors:…``, the name of a class, and the channel of releases before the channels with a secret name.
"""

from __future__ import annotations

import re
from typing import Final

from dbos_async._database.access import DEFAULT_SCHEMA
from dbos_async._database.denied import without_denied

CHANNEL: Final = "__channel__"

_QUALIFIER: Final = re.compile(r"\bdbos_async\.(?=\S)(?!errors:)")
_LITERAL: Final = re.compile(r"(?<!notify\()'dbos_async(?=[' ])")
"""The name of the schema as a text, or as the first word of the key of an advisory lock."""


class Names:
    """The names of one database, shared by all connections of a process to it."""

    def __init__(self, schema: str = DEFAULT_SCHEMA) -> None:
        self.schema: Final = schema
        self._channel = ""
        self._denied: frozenset[str] = frozenset()
        self._texts: dict[str, str] = {}

    @property
    def channel(self) -> str:
        """The first part of the names of all channels; empty before it is known."""
        return self._channel

    @channel.setter
    def channel(self, channel: str) -> None:
        self._channel = channel
        self._texts.clear()

    @property
    def denied(self) -> frozenset[str]:
        """What this role may not use of the server, and the library does without (`denied.py`)."""
        return self._denied

    @denied.setter
    def denied(self, denied: frozenset[str]) -> None:
        self._denied = denied
        self._texts.clear()

    @property
    def quoted_schema(self) -> str:
        """The schema as SQL names it."""
        return self.schema if self.schema == DEFAULT_SCHEMA else quoted(self.schema)

    @property
    def options(self) -> str:
        """How the command line is told of this schema, with a blank before it; empty for the schema that it takes by itself."""
        return "" if self.schema == DEFAULT_SCHEMA else f" --schema {self.schema}"

    def __call__(self, sql: str) -> str:
        """This SQL with the names of this database. The texts of the library are constants, so each is translated once."""
        text = self._texts.get(sql)
        if text is None:
            text = self._texts[sql] = self._translate(sql)
        return text

    def _translate(self, sql: str) -> str:
        if self._denied:
            sql = without_denied(sql, self._denied)
        if self.schema != DEFAULT_SCHEMA:
            sql = _QUALIFIER.sub(f"{self.quoted_schema}.", sql)
            sql = _LITERAL.sub(f"'{self.schema}", sql)
        return sql.replace(CHANNEL, self._channel)


def quoted(name: str) -> str:
    """A name as SQL writes it when it may be any text."""
    return '"' + name.replace('"', '""') + '"'
