"""Classes of exceptions that no import finds by their names: those made in functions, replaced by a reload, or deleted.

The process that raised such an exception finds its class again. Another process cannot.
"""

from __future__ import annotations

from itertools import count
from typing import Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from dbos_async._serialization.ids import ordered_id

_serial: Final = count()
_names: Final[WeakKeyDictionary[type[Exception], str]] = WeakKeyDictionary()
_classes: Final[WeakValueDictionary[str, type[Exception]]] = WeakValueDictionary()


def name_of(kind: type[Exception], imported: type[Exception] | None) -> str:
    """Return a name by which this process finds the class, ``""`` if it is found by its own."""
    if kind is imported:
        return ""
    known = _names.get(kind)
    if known is None:
        known = _names[kind] = f"{ordered_id()}-{next(_serial)}"
        _classes[known] = kind
    return known


def named(name: str) -> type[Exception] | None:
    """Return the class of such a name, ``None`` in any other process, and when the class is gone."""
    return _classes.get(name)
