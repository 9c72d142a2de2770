"""What the key of a step says to people: with whom it talked, and what it waits for."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

OF_A_WORKFLOW: Final = ("get_event", "watch_event", "read_stream", "read_stream_entries", "trim_stream")
"""Verbs whose key is "name of workflow"."""
SENDS: Final = ("send", "ask")


class OtherSide(NamedTuple):
    """The workflow at the other side of a step, and the topic of what was sent, as far as the key tells."""

    workflow_id: str | None = None
    topic: str | None = None


def other_side(verb: str, key: str, output: Any) -> OtherSide:
    """With whom a step talked. The sender of a message is not in a key."""
    if verb in SENDS:
        return _destination(key)
    if verb == "get_result":
        return OtherSide(key)
    if verb == "start_workflow":
        return OtherSide(output if isinstance(output, str) else None)
    if verb in OF_A_WORKFLOW:
        return OtherSide(key.partition(" of ")[2] or None)
    return OtherSide()


def wait_in_words(verb: str, key: str) -> str:
    """What a step that has not ended waits for."""
    if verb in ("recv", "recv_envelope", "messages"):
        return f"a message about {key!r}" if key else "a message"
    if verb == "sleep":
        return "the end of a sleep"
    if verb == "get_result":
        return f"the result of {key!r}"
    if verb in ("get_event", "watch_event"):
        return f"the event {key}"
    if verb in ("read_stream", "read_stream_entries"):
        return f"a value of the stream {key}"
    if verb == "ask":
        destination_id, topic = _destination(key)
        return f"the answer of {destination_id!r} about {topic!r}" if topic else f"the answer of {destination_id!r}"
    if verb == "wait_first":
        return f"the first of: {_names(key)}"
    if verb == "step":
        return f"the end of step {key}"
    return f"{verb} {key}".rstrip()


def _names(key: str) -> str:
    found = _decoded(key)
    return ", ".join(map(str, found)) if isinstance(found, list) else key


def _destination(key: str) -> OtherSide:
    found = _decoded(key)
    if isinstance(found, list) and len(found) >= 2 and all(isinstance(one, str) for one in found):
        return OtherSide(found[-2], found[-1] or None)
    workflow_id, opens, topic = key.partition(" (")
    return OtherSide(workflow_id, topic.removesuffix(")") if opens else None)


def _decoded(key: str) -> Any:
    if not key.startswith("["):
        return None
    try:
        return json.loads(key)
    except ValueError:
        return None
