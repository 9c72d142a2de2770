"""How the command line reads values and times, and how it prints them. No database."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from dbos_async._cli import arguments, texts
from dbos_async._cli.exits import CommandError, ExitCode


@pytest.mark.parametrize(
    ("given_arguments", "value"),
    [
        (["text"], "text"),
        (["two words"], "two words"),
        (["true"], True),
        (["1.5"], 1.5),
        (["-3"], -3),
        (["NaN"], "NaN"),
        (["{broken"], "{broken"),
        (['{"a=b": 1}'], {"a=b": 1}),
        (["a="], {"a": ""}),
        (["a=b=c"], {"a": "b=c"}),
        (["a:=null"], {"a": None}),
        (["a=:=b"], {"a": ":=b"}),
        (["a:b=c"], {"a:b": "c"}),
        ([r"a\=b=c"], {"a=b": "c"}),
        (["a:=[1, 2]", "b=x\ny"], {"a": [1, 2], "b": "x\ny"}),
        (["https://x/y"], "https://x/y"),
        (['"a=b"'], "a=b"),
        (["=x"], "=x"),
    ],
)
def test_a_value_is_read_as_httpie_writes_it(given_arguments: list[str], value: Any) -> None:
    assert arguments.value_of(given_arguments, "It") == value


@pytest.mark.parametrize(
    "given_arguments",
    [
        [], ["a", "b"], ["a", "b=c"], ["a:={"], ["a:=NaN"], ["a=1", "a=2"], ["-", "-"],
        ["a=@/no/such/file"], ["a:=" + "[" * 100_000],
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(given_arguments: list[str]) -> None:
    with pytest.raises(CommandError) as refused:
        arguments.value_of(given_arguments, "It")
    assert refused.value.code == ExitCode.USAGE
    assert refused.value.sentence.isprintable()
    assert len(refused.value.sentence) < 500


def test_fields_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("ä\n")
    (tmp_path / "json").write_text('{"x": [1]}')
    found = arguments.value_of([f"a=@{tmp_path}/text", f"b:=@{tmp_path}/json"], "It")
    assert found == {"a": "ä\n", "b": {"x": [1]}}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


@given(JSON)
def test_printable_json_means_the_same(value: Any) -> None:
    for indent in (None, 2):
        text = texts.printable_json(json.dumps(value, ensure_ascii=False, indent=indent))
        assert json.loads(text) == value
        assert all(line.isprintable() for line in text.split("\n"))


@given(st.text(), st.integers(0, 40))
def test_a_fitted_text_is_printable_and_fits(text: str, cells: int) -> None:
    fitted = texts.fitted(text, cells)
    assert fitted.isprintable()
    assert cell_len(fitted) <= max(cells, 1)


@given(st.text())
def test_a_safe_text_loses_nothing(text: str) -> None:
    safe = texts.safe(text)
    assert safe.isprintable()
    if text.isprintable():
        assert safe == text
    assert len(safe) >= len(text)


def test_a_long_text_is_safe_as_a_whole() -> None:
    assert texts.safe("a\n" * 5000) == r"a\n" * 5000


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 ms"), (0.012, "12 ms"), (0.9999, "1.0 s"), (3.42, "3.4 s"), (9.96, "10 s"), (59.4, "59 s"), (60, "1 min"),
        (125, "2 min 5 s"),
        (3599.9, "1 h"), (3600, "1 h"), (11_040, "3 h 4 min"), (86_400 * 5 + 7200, "5 d 2 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, said: str) -> None:
    assert texts.duration(seconds) == said


def test_times_that_one_names() -> None:
    now = datetime.now(UTC)
    for text, ago in {
        "90s": 90,
        "15m": 900,
        "15min": 900,
        "1h": 3600,
        "2 d": 172_800,
        "1w": 604_800,
        "0.5h": 1800,
    }.items():
        assert abs((now - texts.moment_of(text, "--since")) - timedelta(seconds=ago)) < timedelta(seconds=5)
    assert texts.moment_of("2026-01-02T03:04:05Z", "--since") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert texts.moment_of("999999999w", "--since") < now
    for text in ("", "1", "yesterday", "1y", "-1h", "1h\x1b", "0001-01-01"):
        if text != "0001-01-01":
            with pytest.raises(CommandError) as refused:
                texts.moment_of(text, "--since")
            assert refused.value.code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"type": "builtins:ValueError", "message": "no\nstock"}, r"ValueError: no\nstock"),
        ({"type": "shop:Shop.Closed"}, "Closed"),
        ({"type": 5, "message": None}, "5: None"),
        ("a text", "error: a text"),
        ([1], "error: [1]"),
        ({}, "error"),
    ],
)
def test_a_stored_error_is_one_line_whatever_it_is(record: Any, line: str) -> None:
    assert texts.error_line(record) == line
