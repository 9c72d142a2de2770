"""Which absences of an executor excuse that others took its work (W10)."""

from __future__ import annotations

import pytest

from tests.chaos.absences import Absence, Absences

BEGAN, SEEN = 1000.0, 1060.0


def known(*absences: tuple[str, float, float]) -> Absences:
    found = Absences()
    found.note(*(Absence("one", kind, began, ended) for kind, began, ended in absences))
    return found


@pytest.mark.parametrize(
    "absences",
    [
        [("gone", 1030.0, 1030.0)],
        [("silent", 1030.0, 1040.0)],
        [("silent", 1030.0, 1034.0), ("silent", 1036.0, 1041.0)],
        [("silent", 1030.0, 1032.0), ("lost", 1030.0, 1030.0)],
        [("lost", 1030.0, 1030.0), ("silent", 1033.0, 1035.0)],
    ],
)
def test_who_was_gone_or_silent_for_too_long_is_excused(absences: list[tuple[str, float, float]]) -> None:
    assert known(*absences).excuse("one", BEGAN, SEEN)
    assert not known(*absences).excuse("another", BEGAN, SEEN)


@pytest.mark.parametrize(
    "absences",
    [
        [],
        [("gone", 990.0, 990.0)],
        [("gone", 1070.0, 1070.0)],
        [("lost", 1030.0, 1030.0)],
        [("silent", 1030.0, 1035.0)],
        [("silent", 1030.0, 1034.0), ("silent", 1040.0, 1045.0)],
        [("silent", 1030.0, 1032.0), ("lost", 1045.0, 1045.0)],
        [("silent", 1070.0, 1090.0)],
    ],
)
def test_who_lived_and_had_the_database_is_not_excused(absences: list[tuple[str, float, float]]) -> None:
    assert not known(*absences).excuse("one", BEGAN, SEEN)
