"""What a declared type says about the parts of its values, found out once for each type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

# Kinds of pydantic's schemas.
_WRAPPERS: Final = frozenset(
    ("default", "nullable", "function-before", "function-after", "function-wrap", "model", "dataclass", "definitions")
)
_OF_PYDANTIC: Final = ("pydantic", "pydantic_core", "operator", "functools")
_NO_SCHEMAS: Final = frozenset(("metadata", "default", "cls", "config", "expected", "members", "function"))


class Shape:
    """What a declared type says of one part of its values.

    ``is_open`` says that it declares nothing, ``is_own`` that a function of the type's own serializes it.
    """

    __slots__ = ("_definitions", "_parts", "_schema", "is_open", "is_own")

    def __init__(self, schema: Any, definitions: dict[str, Any] | None = None, *, is_own: bool = False) -> None:
        self._definitions: dict[str, Any] = {} if definitions is None else definitions
        self._parts: dict[Any, Shape] = {}
        self.is_own: bool = is_own
        self._schema: Any = self._unwrapped(schema)
        kind = self._schema["type"]
        self.is_open: bool = kind == "any"
        if kind in ("union", "tagged-union"):
            found = list(_within(self._schema, self._definitions))
            self.is_open = any(part["type"] == "any" for part in found)
            self.is_own = self.is_own or any(map(_has_own_serializer, found))

    def part(self, name: Any) -> Shape:
        """What it says of an item, a field, or (for ``None``) of the keys."""
        known = self._parts.get(name)
        if known is None:
            schema = self._schema_of(name)
            known = self if schema is None else Shape(schema, self._definitions, is_own=self.is_own)
            self._parts[name] = known
        return known

    def member(self, kind: type) -> Shape:
        """What it says of values of a class, if it is a union."""
        if self._schema["type"] not in ("union", "tagged-union"):
            return self
        known = self._parts.get(kind)
        if known is None:
            choices = self._schema["choices"]
            choices = choices.values() if isinstance(choices, dict) else choices
            schemas = [one[0] if isinstance(one, tuple) else one for one in choices]
            of_kind = (one for one in schemas if any(part.get("cls") is kind for part in self._wraps(one)))
            chosen = next(of_kind, None)
            known = self._parts[kind] = self if chosen is None else Shape(chosen, self._definitions)
        return known

    def _wraps(self, schema: Any) -> Iterable[Any]:
        """The schema and those that it only wraps, from the outside in."""
        while True:
            if schema["type"] == "definitions":
                self._definitions.update((one["ref"], one) for one in schema["definitions"])
            yield schema
            if schema["type"] in _WRAPPERS and not schema.get("root_model"):
                schema = schema["schema"]
            elif schema["type"] == "definition-ref":
                schema = self._definitions[schema["schema_ref"]]
            elif schema["type"] == "json-or-python":
                schema = schema["json_schema"]
            elif schema["type"] == "lax-or-strict":
                schema = schema["lax_schema"]
            else:
                return

    def _unwrapped(self, schema: Any) -> Any:
        for one in self._wraps(schema):
            self.is_own = self.is_own or _has_own_serializer(one)
            schema = one
        return schema

    def _schema_of(self, name: Any) -> Any:
        """The schema of a part, ``None`` if it has none of its own."""
        schema = self._schema
        items, fields = schema.get("items_schema"), schema.get("fields")
        if name is None or "values_schema" in schema:
            return schema.get("keys_schema" if name is None else "values_schema")
        if isinstance(fields, dict):
            return fields[name]["schema"] if name in fields else schema.get("extras_schema", {"type": "any"})
        if isinstance(fields, list):
            named = (one["schema"] for place, one in enumerate(fields) if name in (place, one["name"]))
            return next(named, None)
        if isinstance(items, list):
            variadic = schema.get("variadic_item_index")
            place = name if variadic is None or name < variadic else variadic
            return items[place] if place < len(items) else None
        return schema.get("schema") if schema.get("root_model") else items


def _within(schema: Any, definitions: dict[str, Any]) -> Iterable[Any]:
    """The schema and all that are in it."""
    waiting, seen = [schema], set[str]()
    while waiting:
        one = waiting.pop()
        if isinstance(one, (list, tuple)):
            waiting.extend(one)
        elif isinstance(one, dict):
            if isinstance(one.get("type"), str):
                yield one
            if one.get("type") == "definition-ref" and one["schema_ref"] not in seen:
                seen.add(one["schema_ref"])
                waiting.append(definitions.get(one["schema_ref"]))
            waiting.extend(part for name, part in one.items() if name not in _NO_SCHEMAS and name != "serialization")


def _has_own_serializer(schema: Any) -> bool:
    function = schema.get("serialization", {}).get("function")
    module = getattr(function, "__module__", None) or type(function).__module__
    return function is not None and module.partition(".")[0] not in _OF_PYDANTIC
