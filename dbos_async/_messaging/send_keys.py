"""The keys of the steps that send: they tell destination and topic, so that a replay that sends elsewhere is seen.

A send has the key ``order-17 (payment)``, or ``order-17`` without a topic. If one of the names has `` (`` in it, that could be read
in two ways, and the key is the JSON of both names. A ``send_bulk`` names up to eight sends, and has a digest of more.

Releases up to 0.1 wrote ``a (b)`` whatever the names were, and of a ``send_bulk`` only how many messages it had. What they have
recorded is compared by their rule.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Final

from dbos_async._database.sql import load
from dbos_async._runs.own_ids import MARK, are_same, relative
from dbos_async._runs.step import Step
from dbos_async._serialization.values import encode_value

with load(__name__) as sql:
    WAS_SENT: Final = sql.statement("WAS_SENT", parallelism=1)

Target = tuple[str, str]
"""A destination and a topic, which is empty if there is none."""

MAX_NAMED: Final = 8
_TOPIC: Final = " ("
_SEPARATOR: Final = "\0\1"
"""No name has the first of these characters. The second tells it from the mark."""


def send_key(target: Target) -> str:
    """The key of a send."""
    destination_id, topic = target
    if _TOPIC in destination_id or _TOPIC in topic:
        return json.dumps(target, ensure_ascii=False)
    return f"{destination_id} ({topic})" if topic else destination_id


def bulk_key(targets: Sequence[Target], workflow_id: str) -> str:
    """The key of a send_bulk of this workflow."""
    if len(targets) <= MAX_NAMED:
        return f"{len(targets)} messages to {json.dumps([send_key(target) for target in targets], ensure_ascii=False)}"
    return f"{len(targets)} messages ({_digest(targets, [workflow_id])})"


def start_key(target: Target, name: str) -> str:
    """The key of a send that starts its destination, a workflow of this name, if it is not there."""
    return json.dumps([name, *target], ensure_ascii=False)


class StartMatcher:
    """Tells whether a recorded key is that of a send that starts its destination."""

    __slots__ = ("_names",)

    def __init__(self, target: Target, name: str) -> None:
        self._names = [name, *target]

    async def is_same(self, step: Step, recorded: str, ids: Sequence[str]) -> bool:
        """Whether a send to this target with this start has recorded that key."""
        return are_same(_texts(recorded), self._names, ids)


class SendMatcher:
    """Tells whether a recorded key is that of a send."""

    __slots__ = ("_target",)

    def __init__(self, target: Target) -> None:
        self._target = target

    async def is_same(self, step: Step, recorded: str, ids: Sequence[str]) -> bool:
        """Whether a send to this target has recorded that key."""
        found = _target(recorded)
        if are_same(found, self._target, ids):
            return True
        destination_id, topic = self._target
        by_old_rule = f"{destination_id} ({topic})" if topic else destination_id
        if not are_same([recorded], [by_old_rule], ids):
            return False
        if send_key(found) != recorded:
            return True  # only an older release writes such a key
        records = await step.run.database.call(
            WAS_SENT, [(*found, encode_value(list(ids)))], partition=step.run.workflow_id, retry_forever=True
        )
        return not records[0]["was_sent"]


class BulkMatcher:
    """Tells whether a recorded key is that of a send_bulk."""

    __slots__ = ("_targets",)

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets

    async def is_same(self, step: Step, recorded: str, ids: Sequence[str]) -> bool:
        """Whether a send_bulk to these targets has recorded that key."""
        count = f"{len(self._targets)} messages"
        if recorded == count:
            return True  # of an older release
        if (digest := re.fullmatch(rf"{count} \(([0-9a-f]+)\)", recorded)) is not None:
            # An original may have marked its id where the fork does not, in a name that has it by chance.
            marked = (ids[:1], ids, ids[1:])
            return any(_digest(self._targets, each) == digest[1] for each in marked)
        found = [_target(key) for key in _texts(recorded.removeprefix(f"{count} to "))]
        return are_same([*sum(found, ())], [*sum(self._targets, ())], ids)


def _digest(targets: Sequence[Target], ids: Sequence[str]) -> str:
    text = _SEPARATOR.join([name for target in targets for name in target])
    relative_text = text.replace(ids[0], MARK) if len(ids) == 1 else relative(text, ids)
    return hashlib.blake2b(relative_text.encode(), digest_size=8).hexdigest()


def _target(key: str) -> Target:
    """The destination and the topic that a key names."""
    if _TOPIC in key and len(names := _texts(key)) == 2:
        return names[0], names[1]
    destination_id, _, topic = key.removesuffix(")").partition(_TOPIC) if key.endswith(")") else (key, "", "")
    return (destination_id, topic) if topic else (key, "")


def _texts(text: str) -> list[str]:
    """The texts of a JSON array, none if it is no such array."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        return []
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else []
