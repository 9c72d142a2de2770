"""What this library aims at, in ratios of one run on two cores; a run says of each whether it is met."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from tests.benchmarks.harness import Outcome
from tests.benchmarks.workloads import MEASURES


@dataclass(frozen=True)
class Aim:
    """How many times as good as a peer a measure has to be; without a peer, how much it has to be."""

    measure: str
    peer: str | None
    least: float

    def __str__(self) -> str:
        if self.peer is None:
            return f"{self.measure} at least {self.least:,g} {MEASURES[self.measure].unit}"
        return f"{self.measure} at least {self.least:.3g} times as good as {self.peer}"


AIMS = (
    Aim("no_op", "dbos", 40),
    Aim("sends", "dbos", 60),
    Aim("send_recv", "dbos", 120),
    Aim("streams_20", "dbos", 80),
    Aim("events", "dbos", 60),
    Aim("ping_pong p50", "dbos", 8),
    Aim("read_finished", None, 50_000),
    Aim("lone_send p50", "baseline", 1 / 2),
    Aim("send_recv", "redis", 1),
    Aim("streams_20", "redis", 1),
    Aim("ping_pong p50", "redis", 1 / 1.3),
    Aim("ping_pong p50", "nats", 1 / 1.3),
)

MOST = {"KiB each": 6.0, "woken and finished, s": 2.0, "p50 large / small": 1.5}
"""The studies' figures that end so are at most that much."""


def ratio(outcome: Outcome, measure: str, peer: str) -> float | None:
    """How many times as good the median of ours is; below 1 it is worse."""
    ours, theirs = (outcome.figures.get(who, {}).get(measure) for who in ("ours", peer))
    if not ours or not theirs:
        return None
    share = median(ours) / median(theirs)
    return share if MEASURES[measure].more_is_better else 1 / share


def judge(outcome: Outcome) -> list[tuple[Aim, float, bool]]:
    """Each aim for which there are figures, what was found, and whether that is enough."""
    judged = []
    for aim in AIMS:
        found: float | None
        if aim.peer is None:
            ours = outcome.figures.get("ours", {}).get(aim.measure)
            found = median(ours) if ours else None
        else:
            found = ratio(outcome, aim.measure, aim.peer)
        if found is not None:
            judged.append((aim, found, found >= aim.least))
    return judged


def judge_study(medians: dict[str, float]) -> list[tuple[str, float, bool]]:
    """Each figure of a study that may be at most so much, what was found, and whether that is little enough."""
    return [
        (f"{what} at most {most:g}", found, found <= most)
        for what, found in medians.items()
        for end, most in MOST.items()
        if what.endswith(end)
    ]
