"""The loader of SQL files: what it makes of a block, and that every mistake is found at import, with one clear sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import dbos_async
from dbos_async._database import migrations
from dbos_async._database import sql as loader
from dbos_async._database.names import Names
from dbos_async._database.sql import SqlFile, SqlFileError, parse
from dbos_async._messaging import recv, send
from tests.support.channels import announcements

PACKAGE = Path(dbos_async.__file__).parent
SQL_FILES = sorted(path for path in PACKAGE.rglob("*.sql") if path.parent.name != "schema")

FRAGMENTS = """
-- fragment: recorded(id, verb)
left join s on s.id = :id and s.verb = :verb

-- fragment if new: recorded(id, verb)
cross join nothing as s

-- fragment: keys(key)
string_agg(distinct :key, '')

-- fragment for one row: keys(key)
string_agg(:key, '')

-- fragment: all(first, others)
f(:first, g(:others))
"""


def words(sql: str | None) -> str:
    return " ".join((sql or "").split())


def bind(text: str, *names: str, **options: Any) -> list[Any]:
    with parse("x.sql", text) as sql:
        return [sql.statement(name, **options) for name in names]


def test_rows_become_arrays_in_a_batch_and_values_for_one_row() -> None:
    text = "-- name: X (id text, payload json)\nselect n, id, payload from :rows"
    (statement,) = bind(text, "X")
    assert (
        statement.sql.batch
        == "select n, id, payload from unnest($1::int[], $2::text[], $3::json[]) as c(n, id, payload)"
    )
    assert (
        statement.sql.one_row
        == "select n, id, payload from (values ($1::int, $2::text, $3::json)) as c(n, id, payload)"
    )
    assert statement.sql_if_new is None


def test_rows_can_have_an_index_and_numbers_can_stand_alone() -> None:
    text = "-- name: X (id text)\nselect id, index from :rows_with_index; select n from :numbers"
    (statement,) = bind(text, "X")
    assert statement.sql.batch == (
        "select id, index from unnest($1::int[], $2::text[]) with ordinality as c(n, id, index); "
        "select n from unnest($1::int[]) as c(n)"
    )
    assert statement.sql.one_row == (
        "select id, index from (values ($1::int, $2::text, 1::bigint)) as c(n, id, index); "
        "select n from (values ($1::int)) as c(n)"
    )


def test_a_column_of_the_only_call_is_a_variable() -> None:
    (statement,) = bind("-- name: X (most int)\nselect :n as n limit :most", "X", parallelism=1)
    assert statement.sql == ("select ($1::int[])[1] as n limit ($2::int[])[1]", "select $1::int as n limit $2::int")
    assert statement.parallelism == 1


def test_a_fragment_has_forms_for_new_calls_and_for_one_row() -> None:
    text = FRAGMENTS + "-- name: X (id text)\nselect n, :keys(c.id), :all(1, 2, 3) from :rows :recorded(c.id, 'recv')"
    (statement,) = bind(text, "X")
    rows = "unnest($1::int[], $2::text[]) as c(n, id)"
    row = "(values ($1::int, $2::text)) as c(n, id)"
    old, new = "left join s on s.id = c.id and s.verb = 'recv'", "cross join nothing as s"
    several, one = (
        "select n, string_agg(distinct c.id, ''), f(1, g(2, 3))",
        "select n, string_agg(c.id, ''), f(1, g(2, 3))",
    )
    assert statement.sql == (f"{several} from {rows} {old}", f"{one} from {row} {old}")
    assert statement.sql_if_new == (f"{several} from {rows} {new}", f"{one} from {row} {new}")


def test_casts_strings_and_comments_are_no_variables() -> None:
    text = """
-- name: X (id text,
--     most int)
-- A comment about :nothing, which stays in the file.
select n, id::text, most, 'a.b:C', '2:00' -- and :nothing here
from :rows
"""
    (statement,) = bind(text, "X")
    assert words(statement.sql.one_row) == (
        "select n, id::text, most, 'a.b:C', '2:00' from (values ($1::int, $2::text, $3::int)) as c(n, id, most)"
    )


def test_a_comment_after_a_comma_belongs_to_no_header() -> None:
    text = (
        "-- name: X (id text)\nwith a as (select 1),\n-- Why (there is a b).\nb as (select 2)\nselect n, id from :rows"
    )
    (statement,) = bind(text, "X")
    assert words(statement.sql.batch).startswith("with a as (select 1), b as (select 2) select n, id from unnest(")


def test_a_statement_for_new_calls_has_another_one_for_the_others() -> None:
    text = "-- name: ANY (id text)\nselect n, id, 1 from :rows\n-- name: NEW (id text)\nselect n, id, 2 from :rows"
    with parse("x.sql", text) as sql:
        general = sql.statement("ANY")
        statement = sql.statement("NEW", otherwise=general, when_waiting=general)
    assert (statement.name, statement.sql, statement.sql_when_waiting) == ("NEW", general.sql, general)
    assert statement.sql_if_new is not None
    assert "2" in statement.sql_if_new.batch


MISTAKES = {
    "x.sql, X: :nothing is no column and no fragment.": "-- name: X (id text)\nselect id, :nothing from :rows",
    "x.sql, X: nothing uses the column topic.": "-- name: X (id text, topic text)\nselect n, id from :rows",
    "x.sql, X: :id takes no arguments.": "-- name: X (id text)\nselect :n, :id(1)",
    "x.sql, X: the column id is declared twice.": "-- name: X (id text, id int)\nselect id from :rows",
    "x.sql, X: a column is declared by its name and its type, and 'id' is not.": "-- name: X (id)\nselect id from :rows",
    "x.sql, X: nothing says which call a row of the answer is for: it needs :rows, :numbers or :n.": (
        "-- name: X (id text)\nselect :id"
    ),
    "x.sql, X: the fragment :all takes 2 arguments.": FRAGMENTS + "-- name: X\nselect :all(1) from :rows",
    "x.sql, X: the fragment :keys takes 1 arguments.": FRAGMENTS + "-- name: X\nselect :keys from :rows",
    "x.sql, X: the fragment :a contains itself.": "-- fragment: a\n:b\n-- fragment: b\n:a\n-- name: X\nselect :n, :a",
    "x.sql has two statements X.": "-- name: X\nselect :n\n-- name: X\nselect :n",
    "x.sql has no statement X.": "-- name: Y\nselect :n",
    "x.sql: no constant is bound to Y, Z.": "-- name: Y\nselect :n\n-- name: X\nselect :n\n-- name: Z\nselect :n",
    "x.sql: this looks like a header and is none: -- name: X (id text) -- why": (
        "-- name: X (id text) -- why\nselect id from :rows"
    ),
    "x.sql: this looks like a header and is none: --name: X": "--name: X\nselect :n",
    "x.sql: there is SQL above the first header.": "select 1\n-- name: X\nselect :n",
}


@pytest.mark.parametrize("problem", MISTAKES)
def test_a_mistake_fails_at_import_with_one_sentence(problem: str) -> None:
    with pytest.raises(SqlFileError, match=f"^{re.escape(problem)}$"):
        bind(MISTAKES[problem], "X")


def test_a_statement_is_bound_once() -> None:
    with pytest.raises(SqlFileError, match=r"^x.sql: two constants are bound to X.$"):
        bind("-- name: X\nselect :n", "X", "X")


def test_a_fallback_has_the_same_columns() -> None:
    text = "-- name: ANY (id text)\nselect n, id from :rows\n-- name: NEW (key text)\nselect n, key from :rows"
    sql = parse("x.sql", text)
    general = sql.statement("ANY")
    with pytest.raises(SqlFileError, match=r"^x.sql: NEW and ANY must be in the same file and have the same columns.$"):
        sql.statement("NEW", otherwise=general)
    with pytest.raises(SqlFileError, match="must be in the same file"):
        bind("-- name: NEW\nselect :n", "NEW", otherwise=recv.TAKE)


def test_an_error_in_the_block_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), parse("x.sql", "-- name: X\nselect :n"):
        raise ZeroDivisionError


def test_every_file_stands_beside_its_module() -> None:
    assert len(SQL_FILES) >= 15
    for path in SQL_FILES:
        if path.name != "fragments.sql":
            assert "load(__name__)" in path.with_suffix(".py").read_text(), path.name


def test_the_example_of_the_document_is_the_statement() -> None:
    text = (PACKAGE.parent / "docs" / "anatomy-of-a-statement.md").read_text()
    example = text.partition("```sql\n")[2].partition("```")[0]
    assert example in (PACKAGE / "_messaging" / "events.sql").read_text()


def test_every_shared_fragment_is_used() -> None:
    texts = [path.read_text() for path in SQL_FILES]
    for _, name in loader._shared_fragments():
        assert any(re.search(rf"(?<!:):{name}\b", text) for text in texts), name


def test_no_sql_is_left_in_the_modules() -> None:
    sql = re.compile(r"\b(select|insert into|update|delete from) .*dbos_async\.", re.IGNORECASE)
    # Migrations are read from files of their own, and take care of their own table.
    left = [
        path.name for path in PACKAGE.rglob("*.py") if path.name != "migrations.py" and sql.search(path.read_text())
    ]
    assert left == []


CHANGED = """
-- name: TELL ()
with changed as (
    select * from (values
        ('\\x1a'::bytea, '__channel___to_r', 'id of the owner'), ('\\x2b', null, null), ('\\x1a', '__channel___to_r', null)
    ) as v(digest, channel, owner)
),
announced as (:{}(changed))
select n from :numbers cross join announced
"""


@pytest.mark.parametrize(
    ("fragment", "batch", "one_row"),
    [
        ("tell_executors", {("_x", "1a2b")}, {("_x", "1a"), ("_x", "2b")}),
        ("tell_receivers", {("_to_r", "1a")}, {("_to_r", "1a")}),
        ("tell_waiters", {("_1", "1a"), ("_2", "2b")}, {("_1", "1a"), ("_2", "2b")}),
        ("tell_of_ends", {("_1", "1a"), ("_2", "2b"), ("_to_of the owner", "1a")}, None),
    ],
)
async def test_each_channel_is_told_once_what_changed(
    connection: Any, fragment: str, batch: set[tuple[str, str]], one_row: set[tuple[str, str]] | None
) -> None:
    told = await announcements(connection, "r", "of the owner")
    prefix = await migrations.channel(connection, Names())
    sql = parse("f.sql", CHANGED.format(fragment), loader._shared_fragments()).statement("TELL").sql
    for text, expected in ((sql.batch, batch), (sql.one_row, one_row or batch)):
        await connection.fetch(text.replace("__channel__", prefix), [0] if text == sql.batch else 0)
        payloads = await told.end()
        assert sorted(payloads) == sorted(expected)


def test_a_loaded_file_is_the_one_beside_the_module() -> None:
    assert isinstance(loader.load(send.__name__), SqlFile)
    with pytest.raises(FileNotFoundError):
        loader.load("dbos_async._messaging.nothing")
