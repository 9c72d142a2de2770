"""A random program as text that people read: Python in all but details."""

from __future__ import annotations

from tests.replay.acts import Node
from tests.replay.maker import Body, Program


def text_of(program: Program) -> str:
    """The program, and the script of its actor."""
    lines = [f"# kind {program['kind']}, seed {program['seed']}", "async def program():", *_body(program["body"])]
    if program["script"]:
        lines += ["", "async def actor():  # another workflow"]
        lines += [f"    {_scripted(act)}" for act in program["script"]]
    return "\n".join(lines)


def _body(body: Body, depth: int = 1) -> list[str]:
    lines = [line for node in body for line in _node(node)] or ["pass"]
    return [f"{'    ' * depth}{line}" for line in lines]


def _node(node: Node) -> list[str]:
    do, tag = node["do"], node["tag"]
    match do:
        case "step":
            return [f"await {node['how']}({tag!r})"]
        case "mail" | "question":
            to = "me" if do == "mail" else "echo"
            receive = "recv_envelope" if node["how"] == "envelope" else "recv"
            return [f"await send({to}, {tag!r}); await {receive}({tag!r})"]
        case "take":
            seconds = f", {node['seconds']}" if "seconds" in node else ""
            return [f"await recv({node['topic']!r}{seconds})  # {tag}"]
        case "write" if node["how"] != "one":
            return [f"await write_value({node['how']!r}, {node['key']!r}, {tag!r})"]
        case "set" | "write" | "close":
            verb = {"set": "set_event", "write": "write_stream", "close": "close_stream"}[do]
            return [f"await {verb}({node['key']!r}, {tag!r})"]
        case "get" | "get_own":
            return [f"await get_event({'actor' if do == 'get' else 'me'}, {node['key']!r})  # {tag}"]
        case "read":
            return [
                f"async for value in read_stream({'me' if node['own'] else 'actor'}, {node['key']!r}): ...  # {tag}"
            ]
        case "child":
            return [f"await child({tag!r}, fails={node['fails']}, seconds={node['seconds']})"]
        case "sleep":
            return [f"await DBOS.sleep({node['seconds']})  # {tag}"]
        case "turns":
            return [f"for _ in range({node['count']}): await asyncio.sleep(0)  # {tag}"]
        case _ if "waits" in node or not ({"branches", "body"} & node.keys()):
            more = ", ".join(f"{name}={value!r}" for name, value in node.items() if name not in ("do", "tag"))
            return [f"await {do}({more})  # {tag}"]
        case _:
            return _block(node)


def _block(node: Node) -> list[str]:
    shown = {name: value for name, value in node.items() if isinstance(value, str | int | float) and name != "do"}
    shown |= {"fail": node["fail"]} if "fail" in node else {}
    lines = [f"{node['do']}({', '.join(f'{name}={value!r}' for name, value in shown.items())}):"]
    for number, body in enumerate(node.get("branches", [])):
        after = f" after the events of {node['after'][number]}" if node["do"] == "events" else ""
        lines += [f"    branch {number}{after}:", *_body(body, 2)]
    for number, (enough, body) in enumerate(node.get("waiters", [])):
        lines += [f"    waiter {number} for {enough} acts:", *_body(body, 2)]
    if node["do"] in ("stubborn", "cleanup"):
        lines += [
            *_body(node.get("body", []), 1),
            "    finally:" if "body" in node else "    then:",
            *_body(node["after"], 2),
        ]
    elif "body" in node:
        lines += _body(node["body"], 1)
    if node.get("meanwhile"):
        lines += ["    meanwhile:", *_body(node["meanwhile"], 2)]
    return lines


def _scripted(act: Node) -> str:
    pause = f"await DBOS.sleep({act['after']}); " if act["after"] else ""
    match act["do"]:
        case "send":
            return f"{pause}await send(program, {act['value']!r}, {act['topic']!r})"
        case "set":
            return f"{pause}await set_event({act['key']!r}, {act['value']!r})"
        case "write":
            return f"{pause}await write_value({act['how']!r}, {act['key']!r}, {act['value']!r})"
        case "ask":
            return f"{pause}await ask(program, {act['topic']!r}, {act['value']!r})"
        case _:
            return f"{pause}await close_stream({act['key']!r})"
