"""Random programs whose code changes in mid-run: at some of their acts new code does more than old code, where it is patched."""

from __future__ import annotations

from random import Random

from dbos_async import DBOS
from tests.replay import steps
from tests.replay.acts import Node, Scope, typed
from tests.replay.maker import Program, walk

NAMES = ("p", "q", "r")
SHARE = 0.4
"""How many of the acts have a change before them."""
MOST_OLD_CRASHES = 3

deployed: dict[str, int] = {}
"""How often the runs of a program have crashed. A run keeps the code with which it has begun."""


def with_changes(program: Program) -> Program:
    """Let the code of a program change when it has crashed some times."""
    chance = Random(f"{program['kind']}/{program['seed']} deploys")
    for node in walk(program["body"]):
        if chance.random() < SHARE:
            node["patch"] = chance.choice(NAMES)
    return program | {"old_crashes": chance.randint(1, MOST_OLD_CRASHES)}


def begins_with_new_code(workflow_id: str, program: Program) -> bool:
    """Whether a run that begins now has the new code."""
    return deployed.get(workflow_id, 0) >= int(program.get("old_crashes", 1))


async def change(scope: Scope, node: Node) -> None:
    """What new code does before an act, where it goes the new way: a step, about which the log knows."""
    if scope.play.has_new_code and "patch" in node and DBOS.patched(node["patch"]):
        tag = f"new {node['tag']}"
        said = scope.say(tag)
        scope.check(said, await steps.work(*typed(said)))
        scope.add(tag)
