"""The SQL files of the package: one beside each module that has statements, bound to the constants of that module at import.

A file is a list of blocks, each headed by a comment. ``-- name: SEND (sender_id text, attempt bigint)`` begins a statement and
declares the columns of its rows. ``-- ordered name: …`` adds the columns ``place`` and ``asked_after``, which the batches fill in
(see `CallTicket`). ``-- fragment: fence(workflow_id)`` begins a piece of SQL that several statements use; the
fragments of ``fragments.sql`` are there for every file. A name after a colon is a variable:

``:rows``             the rows of the calls, as ``c`` with ``n``, the number of the call, and the declared columns
``:rows_with_index``  the same with ``index``, which numbers the rows from 1
``:numbers``          the same with nothing but ``n``
``:n``, ``:attempt``  the number, or one column, of the only call: for statements that are never called twice at a time
``:fence(c.id)``      a fragment, with its arguments in place of its parameters; the last parameter takes all that is left

Each statement is made in two forms: for a batch its parameters are arrays (``unnest``), for one row they are the values
themselves (``values``). ``-- fragment if new: …`` and ``-- fragment for one row: …`` are what a fragment is in those forms.
A statement with a fragment that has a form for new calls exists for new calls, too (see `Statement`).

``-- name if usual: SEND`` is a short text for one row of the statement SEND, which stands before it and declares the columns. Each
column is a variable there. It does all for a usual call that is new, and for any other call nothing: then it answers no row.

The headers are the only comments that mean something to this module; it leaves the others out of what it sends to Postgres.
Mistakes are found at import: an unknown variable, a column that nothing uses, a block without a constant and the reverse.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any, Final, NamedTuple, Self

from dbos_async._database.statement import Sql, Statement

_HEADER: Final = re.compile(
    r"^-- (?P<kind>(?:ordered )?name|name if usual|fragment(?: if new| for one row)?): (?P<name>\w+) ?(?:\((?P<columns>[^)]*)\))?$",
    re.MULTILINE,
)
_ALMOST_A_HEADER: Final = re.compile(r"^[ \t]*--[ \t]*(?:ordered )?(?:name|fragment)\b[^:]*:.*", re.MULTILINE)
_COLUMN: Final = re.compile(r"([a-z]\w*) ([a-z]\w*)")
_COMMENT: Final = re.compile(r"[ \t]*--.*")
_BLANK_LINES: Final = re.compile(r"\n(?:[ \t]*\n)+")
_NAME: Final = re.compile(r"(?<![:\w]):([a-z]\w*)")
_VARIABLE: Final = re.compile(_NAME.pattern + r"(?:\(([^()]*)\))?")

_NAME_KINDS: Final = "name", "ordered name"
_ORDER_COLUMNS: Final = "place int", "asked_after int"
_IF_USUAL: Final = "name if usual"
_FRAGMENT: Final = "fragment"
_IF_NEW: Final = "fragment if new"
_ONE_ROW: Final = "fragment for one row"
_NO_CALL: Final = "nothing says which call a row of the answer is for: it needs :rows, :numbers or :n"


class SqlFileError(Exception):
    """A file of SQL has a mistake, or does not fit the module beside it."""


class Fragment(NamedTuple):
    """A piece of SQL with parameters."""

    parameters: tuple[str, ...]
    text: str


Fragments = dict[tuple[str, str], Fragment]
"""All fragments, by the kind that their header names and by their names."""


class SqlFile:
    """The statements of one file, each to be bound to one constant."""

    def __init__(self, name: str, statements: dict[str, _Block]) -> None:
        self._name, self._statements = name, statements
        self._bound: set[str] = set()

    def statement(
        self,
        name: str,
        *,
        parallelism: int = 2,
        otherwise: Statement | None = None,
        when_waiting: Statement | None = None,
        is_usual: Callable[[tuple[Any, ...]], bool] | None = None,
    ) -> Statement:
        """The statement of this name, which is now bound.

        With ``otherwise`` the text of this name is for new calls only. When a unique key shows that a call is not new,
        the text of ``otherwise`` is executed. ``when_waiting`` is the statement that polls again in a wait that has begun.
        ``is_usual`` tells of a row whether to try the text for usual calls, if there is one.
        """
        if name not in self._statements:
            raise SqlFileError(f"{self._name} has no statement {name}.")
        if name in self._bound:
            raise SqlFileError(f"{self._name}: two constants are bound to {name}.")
        self._bound.add(name)
        block = self._statements[name]
        if (block.usual is None) != (is_usual is None):
            raise SqlFileError(f"{self._name}: {name} has a text for usual calls if and only if is_usual tells them.")
        if otherwise is None:
            sql, sql_if_new = block.sql(), block.sql_if_new()
            if block.usual is not None and sql_if_new is None:
                raise SqlFileError(f"{self._name}: {name} has a text for usual calls, and none for new ones.")
        else:
            other = self._statements.get(otherwise.name)
            if other is None or other.columns != block.columns:
                raise SqlFileError(
                    f"{self._name}: {name} and {otherwise.name} must be in the same file and have the same columns."
                )
            sql, sql_if_new = otherwise.sql, block.sql()
        usual = block.sql_if_usual()
        return Statement(name, sql, parallelism, sql_if_new, when_waiting, block.is_ordered, usual, is_usual)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        unbound = ", ".join(sorted(self._statements.keys() - self._bound))
        if unbound and error is None:
            raise SqlFileError(f"{self._name}: no constant is bound to {unbound}.")


def load(module: str) -> SqlFile:
    """The SQL file of a module, which has the module's name. At the end of the ``with`` every statement must be bound.

    ::

        with load(__name__) as sql:
            SEND: Final = sql.statement("SEND")
    """
    package, _, name = module.rpartition(".")
    return parse(f"{name}.sql", _read(package, f"{name}.sql"), _shared_fragments())


def parse(file: str, text: str, shared: Fragments | None = None) -> SqlFile:
    """The statements of a text, made with these fragments and those of the text itself."""
    fragments = dict(shared or {})
    found: dict[str, tuple[dict[str, str], str]] = {}
    usual: dict[str, str] = {}
    for header, body in _blocks(file, text):
        name = header["name"]
        declared = _declared(header)
        if header["kind"] == _IF_USUAL:
            if name not in found or declared or name in usual:
                raise SqlFileError(
                    f"{file}: the text for usual calls of {name} comes once, after {name}, whose columns it has."
                )
            usual[name] = body
        elif header["kind"] not in _NAME_KINDS:
            fragments[header["kind"], name] = Fragment(declared, body)
        elif name in found:
            raise SqlFileError(f"{file} has two statements {name}.")
        else:
            if header["kind"] == "ordered name":
                declared = *declared, *_ORDER_COLUMNS
            found[name] = _columns(f"{file}, {name}", declared), body
    statements = {name: _Block(f"{file}, {name}", *block, fragments, usual.get(name)) for name, block in found.items()}
    return SqlFile(file, statements)


@functools.cache
def _shared_fragments() -> Fragments:
    file = "fragments.sql"
    fragments: Fragments = {}
    for header, body in _blocks(file, _read("dbos_async._database", file)):
        fragments[header["kind"], header["name"]] = Fragment(_declared(header), body)
    return fragments


def _read(package: str, file: str) -> str:
    return resources.files(package).joinpath(file).read_text(encoding="utf-8")


def _blocks(file: str, text: str) -> Iterator[tuple[re.Match[str], str]]:
    headers = list(_HEADER.finditer(text))
    for almost in _ALMOST_A_HEADER.finditer(text):
        if not any(header.start() == almost.start() for header in headers):
            raise SqlFileError(f"{file}: this looks like a header and is none: {almost[0].strip()}")
    starts = [*(header.start() for header in headers), len(text)]
    if _COMMENT.sub("", text[: starts[0]]).strip():
        raise SqlFileError(f"{file}: there is SQL above the first header.")
    for header, end in zip(headers, starts[1:], strict=True):
        yield header, _BLANK_LINES.sub("\n", _COMMENT.sub("", text[header.end() : end])).strip("\n")


def _declared(header: re.Match[str]) -> tuple[str, ...]:
    # A declaration may go on in the next comment line.
    declared = re.sub(r"\n-- +", " ", header["columns"] or "")
    return tuple(each.strip() for each in declared.split(",") if each.strip())


def _columns(where: str, declared: Sequence[str]) -> dict[str, str]:
    columns = {"n": "int"}
    for column in declared:
        found = _COLUMN.fullmatch(column)
        if found is None:
            raise SqlFileError(f"{where}: a column is declared by its name and its type, and {column!r} is not.")
        if found[1] in columns:
            raise SqlFileError(f"{where}: the column {found[1]} is declared twice.")
        columns[found[1]] = found[2]
    return columns


class _Block:
    """One statement of a file."""

    def __init__(
        self, where: str, columns: dict[str, str], text: str, fragments: Fragments, usual: str | None = None
    ) -> None:
        self.columns = columns
        self.usual = usual
        """The text for usual calls, if there is one."""
        self._where, self._text, self._fragments = where, text, fragments

    @property
    def is_ordered(self) -> bool:
        """Whether the rows have the columns of the order."""
        return "asked_after" in self.columns

    def sql(self) -> Sql:
        """The statement for any call."""
        variables, batch = self._expand()
        if not variables & {"rows", "rows_with_index", "numbers", "n"}:
            raise SqlFileError(f"{self._where}: {_NO_CALL}.")
        used = variables | set(re.findall(r"\w+", re.sub(r" as c\([^()]*\)", "", batch)))
        for column in self.columns.keys() - {"n", "place"} - used:  # a sleep has no place before it is over
            raise SqlFileError(f"{self._where}: nothing uses the column {column}.")
        return Sql(batch, self._expand(_ONE_ROW)[1])

    def sql_if_new(self) -> Sql | None:
        """The statement for new calls, if it has a fragment with a form for those."""
        if not any((_IF_NEW, name) in self._fragments for name in self._expand()[0]):
            return None
        return Sql(self._expand(_IF_NEW)[1], self._expand(_IF_NEW, _ONE_ROW)[1])

    def sql_if_usual(self) -> str | None:
        """The statement for one usual call that is new."""
        if self.usual is None:
            return None
        variables, text = self._expand(_IF_NEW, _ONE_ROW, text=self.usual)
        if "n" not in variables:
            raise SqlFileError(f"{self._where}: {_NO_CALL}.")
        for column in self.columns.keys() - variables:
            raise SqlFileError(f"{self._where}: the text for usual calls does not use the column {column}.")
        return text

    def _expand(self, *kinds: str, text: str | None = None) -> tuple[set[str], str]:
        """The variables that a text has, and the text with their values, in the form of these kinds of fragments."""
        variables: set[str] = set()
        own = self._row_variables(_ONE_ROW in kinds)

        def value(found: re.Match[str]) -> str:
            name, arguments = found[1], found[2]
            if name in inside:
                raise SqlFileError(f"{self._where}: the fragment :{name} contains itself.")
            variables.add(name)
            for kind in (*kinds, _FRAGMENT):
                fragment = self._fragments.get((kind, name))
                if fragment is not None:
                    inside.append(name)
                    text = _VARIABLE.sub(value, self._fill_in(name, fragment, arguments))
                    inside.pop()
                    return text
            if name not in own:
                raise SqlFileError(f"{self._where}: :{name} is no column and no fragment.")
            if arguments is not None:
                raise SqlFileError(f"{self._where}: :{name} takes no arguments.")
            return own[name]

        inside: list[str] = []
        return variables, _VARIABLE.sub(value, self._text if text is None else text)

    def _row_variables(self, is_one_row: bool) -> dict[str, str]:
        end = "" if is_one_row else "[]"
        parameters = [f"${number}::{kind}{end}" for number, kind in enumerate(self.columns.values(), 1)]
        row, names = ", ".join(parameters), ", ".join(self.columns)
        if is_one_row:
            return dict(zip(self.columns, parameters, strict=True)) | {
                "rows": f"(values ({row})) as c({names})",
                "rows_with_index": f"(values ({row}, 1::bigint)) as c({names}, index)",
                "numbers": f"(values ({parameters[0]})) as c(n)",
            }
        return {name: f"({parameter})[1]" for name, parameter in zip(self.columns, parameters, strict=True)} | {
            "rows": f"unnest({row}) as c({names})",
            "rows_with_index": f"unnest({row}) with ordinality as c({names}, index)",
            "numbers": f"unnest({parameters[0]}) as c(n)",
        }

    def _fill_in(self, name: str, fragment: Fragment, arguments: str | None) -> str:
        """The text of a fragment with these arguments."""
        count = len(fragment.parameters)
        given = [] if arguments is None else [argument.strip() for argument in arguments.split(",", max(count - 1, 0))]
        if len(given) != count or not all(given):
            raise SqlFileError(f"{self._where}: the fragment :{name} takes {count} arguments.")
        values = dict(zip(fragment.parameters, given, strict=True))
        return _NAME.sub(lambda found: values.get(found[1], found[0]), fragment.text)
