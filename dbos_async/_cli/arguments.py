"""Values on the command line, as httpie writes them.

``paid``, ``10``, ``'{"cents": 10}'``   a single value: JSON, and a text if it is none
``status=paid amount:=10``             an object of a text and a raw JSON value
``note=@file.txt order:=@order.json``  the same from files
``-``                                  JSON from standard input; with fields beside it they are added to its object
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from dbos_async._cli.exits import CommandError, ExitCode
from dbos_async._logs import shown

_FIELD: Final = re.compile(r"((?:[^=:\\]|\\.|:(?!=))+?)(:=@|=@|:=|=)(.*)", re.DOTALL)
_BEGINS_JSON: Final = ("{", "[", '"')


def value_of(arguments: Sequence[str], what: str) -> Any:
    """The one value of these arguments; ``what`` names it in the sentence of an error."""
    values, fields = values_and_fields(arguments)
    if len(values) == 1 and fields:
        if not isinstance(values[0], dict) or arguments.count("-") != 1:
            _refuse(f"{what} is either one value or fields (name=text, name:=JSON), and not both.")
        return {**values[0], **fields}
    if fields:
        return fields
    if len(values) != 1:
        missing = "is missing" if not values else f"must be one value and {len(values)} are given"
        _refuse(
            f"{what} {missing}: write a text, JSON, fields such as status=paid amount:=10, or - for standard input."
        )
    return values[0]


def values_and_fields(arguments: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """The single values of these arguments in their order, and the fields by their names."""
    values: list[Any] = []
    fields: dict[str, Any] = {}
    if arguments.count("-") > 1:
        _refuse("Standard input (-) can be read once.")
    for argument in arguments:
        if argument == "-":
            values.append(_json(_stdin(), "Standard input"))
            continue
        found = None if _is_json_text(argument) else _FIELD.fullmatch(argument)
        if found is None:
            values.append(_value(argument))
            continue
        name = re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL)
        if name in fields:
            _refuse(f"The field {shown(repr(name))} is given twice.")
        fields[name] = _field(name, found[2], found[3])
    return values, fields


def pairs_of(texts: Sequence[str] | None, what: str) -> dict[str, str] | None:
    """The names and texts of ``name=text``, ``None`` for none."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            _refuse(f"{what} must be name=text and is {shown(repr(text[:100]))}.")
        found[name] = value
    return found or None


def _field(name: str, kind: str, text: str) -> Any:
    where = f"The field {shown(repr(name))}"
    if kind.endswith("@"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            _refuse(f"{where} cannot be read from {shown(repr(text))}: {shown(str(error))}.")
    return _json(text, where) if kind.startswith(":=") else text


def _value(text: str) -> Any:
    try:
        return _loads(text)
    except (ValueError, RecursionError):
        return text


def _is_json_text(text: str) -> bool:
    if not text.lstrip().startswith(_BEGINS_JSON):
        return False
    try:
        _loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json(text: str, where: str) -> Any:
    try:
        return _loads(text)
    except (ValueError, RecursionError) as error:
        _refuse(f"{where} is no JSON ({shown(str(error))}): a text is written name=text.")


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _stdin() -> str:
    try:
        return sys.stdin.read()
    except ValueError as error:
        _refuse(f"Standard input cannot be read: {shown(str(error))}.")


def _refuse(sentence: str) -> NoReturn:
    raise CommandError(sentence, ExitCode.USAGE)
