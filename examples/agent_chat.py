"""An agent that talks to you in a browser: stop it, change its plan, skip its slow tools, decide, ask what it does, kill -9 it.

    pip install -e '.[embedded,fastapi]' && python examples/agent_chat.py [PORT]

Open the address that it prints. Whatever the agent does, it hears you at once. Reload the page while it speaks, or open it in a
second tab: it goes on at the very next token, none twice and none missing. Kill the server and start it again: the model is asked
anew and answers in other words, and the page takes back what it had said. The model and its tools are local stand-ins, no network
needed.

A chat is a workflow. What you say, stop, skip and allow are messages to it; what the page shows is a stream and an event of it.
docs/guide/agent.md explains it piece by piece.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import os
import random
import re
import secrets
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import uvicorn
from fastapi import Cookie, Depends, FastAPI, HTTPException, Request, Response
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from dbos_async import DBOS, Asked, Event, Question, Start, StepHandle, Stream, StreamOf, Topic
from dbos_async.fastapi import add_error_handlers, lifespan, stream_response

TOKEN_SECONDS = float(os.environ.get("AGENT_TOKEN_SECONDS", "0.04"))
APPROVAL_SECONDS = float(os.environ.get("AGENT_APPROVAL_SECONDS", "120"))
SLOW_TOOL_SECONDS = float(os.environ.get("AGENT_SLOW_TOOL_SECONDS", "20"))
A_DAY = 24 * 3600

ABOUT = (
    "I am a small stand-in for a language model, and this chat is a durable workflow. Every token is stored in Postgres before you "
    "see it. So reload this page while I speak, or open it in a second tab: I go on at the very next word. Or kill the server with "
    "kill -9 and start it again: I begin anew in other words, and what I said is taken back. And interrupt me whenever you like."
)
FINDINGS = "I have read what there is about {}. People have loved it for centuries, and they still argue how much is good for you."
# A model says the same in other words each time.
OTHER_WORDS = {
    "small": "modest", "Every": "Each", "token": "word", "stored": "kept", "reload": "refresh", "speak": "talk", "second": "next",
    "begin": "start", "anew": "afresh", "said": "told", "interrupt": "stop", "like": "wish", "read": "studied", "People": "Many",
    "loved": "praised", "centuries": "ages", "still": "yet", "argue": "quarrel",
}  # fmt: skip

# What the tools find, and after how many seconds.
TOOLS = {
    "weather": (0.4, "Sunny in {}, 24 °C."),
    "rooms": (1.2, "A room in {} costs 84 €."),
    "trains": (SLOW_TOOL_SECONDS, "A train to {} leaves at 9:04."),
}

# What the agent can do, and what one says for it.
SKILLS = {
    "order": r"\b(?:order|buy)\s+(\S.*)",
    "plan": r"\btrip to\s+(\S.*)",
    "research": r"\bresearch\s+(\S.*?)\s+and\s+(\S.*)",
}


# ── What travels ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Said(BaseModel):
    """What the person said. It begins a turn."""

    kind: Literal["said"] = "said"
    turn: int
    text: str


class Token(BaseModel):
    """A piece of what the agent says, or a sub-agent of this name."""

    kind: Literal["token"] = "token"
    text: str
    agent: str = ""


class Tools(BaseModel):
    """The agent uses these tools at the same time; the person may skip those that are slow."""

    kind: Literal["tools"] = "tools"
    turn: int
    names: list[str]


class Found(BaseModel):
    """What a tool has found; nothing if it was skipped."""

    kind: Literal["found"] = "found"
    name: str
    text: str | None


class Ask(BaseModel):
    """The agent wants to do something that it may not do unasked."""

    kind: Literal["ask"] = "ask"
    turn: int
    text: str
    until: datetime


class Verdict(BaseModel):
    """What the person decided; ``None`` if that was not in time."""

    kind: Literal["verdict"] = "verdict"
    approved: bool | None


class Done(BaseModel):
    """The turn is over. The first of a turn counts: a stop may come when everything was said."""

    kind: Literal["done"] = "done"
    turn: int
    stopped: bool = False


Part = Said | Token | Tools | Found | Ask | Verdict | Done

PARTS = Stream[Part]("parts", Part)
STATUS = Event("status", str)
SAYS = Topic("says", str)
STOP = Topic("stop", int)
WHAT = Question("what are you doing", str, str)


# Each turn has topics of its own, so that no click is taken for one in another turn.
def skip(turn: int) -> Topic[str]:
    """Do not wait for the tools that still run."""
    return Topic(f"skip-{turn}", str)


def approval(turn: int) -> Topic[bool]:
    """Whether the agent may do what it has asked for."""
    return Topic(f"approval-{turn}", bool)


# ── The world outside: stand-ins for a model and its tools, and the steps that call them ──────────────────────────────


def model(prompt: str) -> list[str]:
    """The stand-in for a language model: the tokens of its answer, which is another one each time."""
    if count := re.search(r"count to (\d{1,4})\b", prompt, re.IGNORECASE):
        answer = "".join(f"{n}{random.choice((' ', ', ', '… ', '! '))}" for n in range(1, min(int(count[1]), 1000) + 1))
    else:
        text = prompt.removeprefix("Say: ") if prompt.startswith("Say: ") else ABOUT
        answer = re.sub(r"\w+", lambda word: random.choice((word[0], OTHER_WORDS.get(word[0], word[0]))), text)
    print(f"✎ {answer!r}", flush=True)
    return re.findall(r"\S+\s*", answer)


def choose(text: str) -> tuple[str, ...]:
    """The stand-in for the choice of a language model: what to do, and with what."""
    for skill, words in SKILLS.items():
        if wish := re.search(words, text, re.IGNORECASE | re.DOTALL):
            return skill, *(part.rstrip(" .!?")[:100] for part in wish.groups())
    return "speak", text


@DBOS.step()
async def speak(prompt: str, agent: str = "") -> None:
    """Stream the model's answer. Where an earlier attempt has begun, this one takes that back; a sub-agent goes on from it."""
    await DBOS.set_event(STATUS, "speaking")
    async with DBOS.stream_writer(PARTS, on_retry="continue" if agent else "rewind") as out:
        for token in model(prompt)[len(out.written) :]:
            await asyncio.sleep(TOKEN_SECONDS)
            await out.write(Token(text=token, agent=agent))


@DBOS.step()
async def look_up(tool: str, place: str) -> str:
    """A tool that takes its time."""
    seconds, found = TOOLS[tool]
    await asyncio.sleep(seconds)
    return found.format(place)


@DBOS.step()
async def place_order(what: str) -> str:
    """The side effect that wants a person's consent."""
    print(f"✱ orders {what}", flush=True)
    return f"ORDER-{sum(map(ord, what)) % 10_000:04}"


# ── The agent ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def order(turn: int, what: str) -> None:
    """Do what costs money if the person allows it in time."""
    await speak("Say: Gladly. That costs money, so I ask you first:")
    await DBOS.set_event(STATUS, f"waiting for you to decide about {what}")
    until = await DBOS.now() + timedelta(seconds=APPROVAL_SECONDS)
    await DBOS.write_stream(PARTS, Ask(turn=turn, text=f"Order {what} for 48.00 €?", until=until))
    approved = await DBOS.recv(approval(turn), timeout_seconds=APPROVAL_SECONDS)
    await DBOS.write_stream(PARTS, Verdict(approved=approved))
    number = await place_order(what) if approved else None
    await speak(f"Say: Ordered. The number is {number}." if number else "Say: All right, nothing was ordered.")


async def plan(turn: int, place: str) -> None:
    """Use all tools at the same time, until all have found something or the person does not want to wait any more."""
    await DBOS.write_stream(PARTS, Tools(turn=turn, names=list(TOOLS)))
    found: list[str] = []
    running: dict[StepHandle[str], str] = {}
    try:
        for tool in TOOLS:
            running[await DBOS.start_step(look_up, tool, place)] = tool
        while running:
            await DBOS.set_event(STATUS, f"looking up {' and '.join(running.values())} for {place}")
            ready = await DBOS.wait_first(skip(turn), *running)
            if not isinstance(ready, StepHandle):
                break
            found.append(await ready.get_result())
            await DBOS.write_stream(PARTS, Found(name=running.pop(ready), text=found[-1]))
    finally:
        for step, tool in running.items():
            await step.cancel()
            await DBOS.write_stream(PARTS, Found(name=tool, text=None))
    await speak(f"Say: {' '.join(found) or 'I know nothing about it.'} Have a good trip to {place}!")


@DBOS.workflow()
async def sub_agent(subject: str) -> None:
    """A workflow of its own, with a stream of its own."""
    await speak(f"Say: {FINDINGS.format(subject)}", agent=subject)


async def research(*subjects: str) -> None:
    """Let sub-agents work at the same time, and show what each says as it says it."""
    await DBOS.set_event(STATUS, f"listening to sub-agents about {' and '.join(subjects)}")
    agents: list[str] = []
    try:
        for subject in subjects:
            agents += [(await DBOS.start_workflow(sub_agent, subject)).workflow_id]
        async for part in DBOS.read_streams(*(StreamOf(agent, PARTS) for agent in agents)):
            await DBOS.write_stream(PARTS, part.value)
    finally:
        for agent in agents:
            await DBOS.cancel_workflow(agent)


async def answer(turn: int, text: str) -> None:
    """Do what the person wishes. This can be cancelled wherever it stands."""
    match choose(text):
        case "order", what:
            await order(turn, what)
        case "plan", place:
            await plan(turn, place)
        case "research", *subjects:
            await research(*subjects)
        case _:
            await speak(text)
    await DBOS.set_event(STATUS, "listening")
    await DBOS.write_stream(PARTS, Done(turn=turn))


@DBOS.workflow()
async def chat() -> None:
    """Hear the person at any moment, until nothing was said for a day. What the agent does meanwhile is a task of its own."""
    turn, thought = 0, None
    async with asyncio.TaskGroup() as tasks:
        while (heard := await DBOS.wait_first(STOP, SAYS, WHAT, timeout_seconds=A_DAY)) is not None:
            if isinstance(heard, Asked):
                doing = await DBOS.get_event(heard.destination_id, STATUS, timeout_seconds=0)
                await cast("Asked[str, str]", heard).answer(f"I am {doing or 'listening'}.")
            elif isinstance(heard.payload, str) or heard.payload == turn:  # no click stops a later turn
                if thought is not None and thought.cancel():
                    await asyncio.wait([thought])
                    await DBOS.write_stream(PARTS, Done(turn=turn, stopped=True))
                    await DBOS.set_event(STATUS, "listening")
                if isinstance(heard.payload, str):
                    turn += 1
                    await DBOS.write_stream(PARTS, Said(turn=turn, text=heard.payload))
                    thought = tasks.create_task(answer(turn, heard.payload))


# ── Whose chat it is ─────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def secret() -> bytes:
    """Signs the cookies. It outlives the server, so that visitors stay who they are."""
    if "APP_SECRET" in os.environ:
        return os.environ["APP_SECRET"].encode()
    file = Path(".dbos_async") / "secret"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}")
        new.touch(mode=0o600)
        new.write_text(secrets.token_hex(32))
        new.rename(file)  # so that nobody ever reads half of it
    return file.read_bytes()


def sign(name: str) -> str:
    """A name that nobody else can have made up."""
    return f"{name}.{hmac.new(secret(), name.encode(), 'sha256').hexdigest()}"


def is_signed(session: str) -> bool:
    """Compares in constant time, so that the signature cannot be guessed letter by letter."""
    return hmac.compare_digest(session.encode(), sign(session.partition(".")[0]).encode())


def find_chat(chat: UUID, session: Annotated[str, Cookie()] = "") -> str:
    """The workflow's id begins with the visitor's name, so nobody can as much as name the chat of somebody else."""
    if not is_signed(session):
        raise HTTPException(401, "Open the page first: it tells the server who you are.")
    return f"chat-{session.partition('.')[0]}-{chat}"


ChatID = Annotated[str, Depends(find_chat)]


# ── The web ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# A killed server that starts again is the same executor, and takes its chats over at once.
app = FastAPI(title="Agent chat", lifespan=lifespan(executor_id="agent-chat"))
add_error_handlers(app)
# What is longer is refused (413) before anything of it is parsed.
app.add_middleware(RequestBodyLimitMiddleware, max_body_size=16_384)


class Message(BaseModel):
    """Something said; the page makes the id up, so that it may send it again when it does not know whether it arrived."""

    id: UUID
    text: str = Field(min_length=1, max_length=2000)


class Approval(BaseModel):
    """Yes or no."""

    approved: bool


Turn = Annotated[int, InPath(ge=1, le=100_000)]


async def tell(chat_id: str, message: Any, topic: Topic[Any], key: str, start: Start[[]] | None = None) -> None:
    """Send what somebody said or clicked. What arrives twice has the same key, and counts once."""
    if not await DBOS.send(chat_id, message, topic, idempotency_key=key, start=start):
        raise HTTPException(409, "This chat has ended.")


@app.post("/chats/{chat}/messages", status_code=202)
async def say(chat_id: ChatID, message: Message) -> None:
    """Say something; the first message begins the chat, and any later one changes the agent's plan."""
    await tell(chat_id, message.text, SAYS, str(message.id), Start(chat))


@app.post("/chats/{chat}/stops/{turn}", status_code=202)
async def stop(chat_id: ChatID, turn: Turn) -> None:
    """Stop the agent, wherever it stands in this turn."""
    await tell(chat_id, turn, STOP, f"stop-{turn}")


@app.post("/chats/{chat}/skips/{turn}", status_code=202)
async def skip_tools(chat_id: ChatID, turn: Turn) -> None:
    """Go on without the tools that still run."""
    await tell(chat_id, "skip", skip(turn), f"skip-{turn}")


@app.post("/chats/{chat}/approvals/{turn}", status_code=202)
async def decide(chat_id: ChatID, turn: Turn, decision: Approval) -> None:
    """Decide what the agent has asked for. The first answer counts, however often somebody clicks."""
    await tell(chat_id, decision.approved, approval(turn), f"approval-{turn}")


@app.post("/chats/{chat}/what")
async def what_are_you_doing(chat_id: ChatID) -> str:
    """Ask the agent what it is doing. It answers while it works."""
    return await DBOS.ask(chat_id, WHAT, "What are you doing?")


@app.get("/chats/{chat}/parts")
async def parts(request: Request, chat_id: ChatID) -> Response:
    """The conversation, live."""
    return await stream_response(request, chat_id, PARTS)


@app.get("/chats/{chat}/status")
async def status(request: Request, chat_id: ChatID) -> Response:
    """What the agent is doing, live."""
    return await stream_response(request, chat_id, event=STATUS)


@app.get("/", response_class=HTMLResponse)
async def page(session: Annotated[str, Cookie()] = "") -> Response:
    """The page; whoever comes for the first time gets a name."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src data:; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
    )
    headers = {
        "Content-Security-Policy": f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "Cache-Control": "no-store",
    }
    answer = HTMLResponse(PAGE.replace("NONCE", nonce), headers=headers)
    if not is_signed(session):
        # In earnest with secure=True, behind HTTPS. Other sites can link here, but not post here in this visitor's name.
        answer.set_cookie("session", sign(secrets.token_hex(16)), max_age=365 * A_DAY, httponly=True, samesite="lax")
    return answer


PAGE = r"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Agent chat</title>
<link rel="icon" href="data:,">
<style nonce="NONCE">
  :root {
    color-scheme: light dark;
    --ground: #f6f5f2; --paper: #fff; --ink: #22211f; --quiet: #6d6a64; --line: #e2dfd8; --accent: #2f5fd0; --on-accent: #fff;
    --good: #217a45; --bad: #b3372d;
  }
  @media (prefers-color-scheme: dark) {
    :root {
      --ground: #17171a; --paper: #212126; --ink: #ecebe7; --quiet: #a09d96; --line: #34343b; --accent: #86a8ff;
      --on-accent: #10131c; --good: #6fcf97; --bad: #ff8f84;
    }
  }
  * { box-sizing: border-box; }
  body {
    margin: 0; height: 100dvh; display: flex; flex-direction: column; background: var(--ground); color: var(--ink);
    font: 16px/1.55 system-ui, sans-serif;
  }
  header, main, form { width: 100%; max-width: 46rem; margin: 0 auto; padding: 0 1rem; }
  header { display: flex; align-items: center; gap: .75rem; padding-block: .8rem; border-bottom: 1px solid var(--line); }
  h1 { font-size: 1rem; margin: 0; flex: 1; }
  header a { color: var(--accent); text-decoration: none; font-size: .9rem; }
  #state { display: flex; align-items: center; gap: .4rem; color: var(--quiet); font-size: .85rem; }
  #state::before { content: ""; width: .55rem; height: .55rem; border-radius: 50%; background: var(--quiet); }
  #state[data-is="live"]::before { background: var(--good); }
  #state[data-is="away"]::before { background: var(--bad); }
  main { flex: 1; overflow-y: auto; padding-block: 1.2rem; display: flex; flex-direction: column; gap: .8rem; }
  .you, .agent, .card { padding: .6rem .9rem; border-radius: 1rem; max-width: 85%; overflow-wrap: anywhere; white-space: pre-wrap; }
  .you { align-self: flex-end; background: var(--accent); color: var(--on-accent); border-bottom-right-radius: .25rem; }
  .waits { opacity: .5; }
  .agent { align-self: flex-start; background: var(--paper); border: 1px solid var(--line); border-bottom-left-radius: .25rem; }
  .agent.speaks::after {
    content: ""; display: inline-block; width: .5em; height: 1em; vertical-align: -.15em; background: var(--accent);
    animation: blink 1s steps(2) infinite;
  }
  @keyframes blink { 50% { opacity: 0; } }
  @media (prefers-reduced-motion: reduce) { *, *::after { animation: none !important; } }
  .team { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: .8rem; flex: none; }
  .team h2 { font-size: .8rem; font-weight: 600; color: var(--quiet); margin: 0 0 .2rem .2rem; overflow-wrap: anywhere; }
  .team .agent { max-width: none; }
  .card { align-self: flex-start; background: var(--paper); border: 1px solid var(--accent); min-width: min(22rem, 85%); }
  .card p { margin: 0 0 .6rem; font-weight: 600; }
  .card button.small { margin-top: .5rem; }
  .card .row { display: flex; gap: .6rem; align-items: center; min-height: 2.6rem; }
  .card .quiet { color: var(--quiet); font-size: .85rem; }
  .card ul { list-style: none; margin: 0; padding: 0; display: grid; grid-template-columns: auto 1fr; gap: .2rem .8rem; }
  .card li { display: contents; } .card li span:first-child { color: var(--quiet); }
  .card li.runs span:last-child { color: var(--quiet); animation: breathe 1.4s ease-in-out infinite alternate; }
  @keyframes breathe { to { opacity: .6; } }
  .yes { color: var(--good); } .no { color: var(--bad); }
  .note { align-self: center; margin: 0; color: var(--quiet); font-size: .85rem; }
  button {
    font: inherit; padding: .5rem 1.1rem; border-radius: .7rem; border: 1px solid var(--accent); background: var(--accent);
    color: var(--on-accent); cursor: pointer;
  }
  button.plain { background: none; color: var(--accent); }
  button.small { padding: .2rem .7rem; font-size: .85rem; white-space: nowrap; }
  button:disabled { opacity: .45; cursor: default; }
  :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
  #welcome { margin: auto; text-align: center; color: var(--quiet); max-width: 36rem; }
  #welcome h2 { color: var(--ink); margin: 0 0 .3rem; }
  #welcome div { display: flex; flex-wrap: wrap; gap: .6rem; justify-content: center; margin-top: 1.2rem; }
  #stop { background: var(--bad); border-color: var(--bad); }
  #work { width: 100%; max-width: 46rem; margin: 0 auto; padding: .6rem 1rem 0; border-top: 1px solid var(--line); }
  #work .row { display: flex; flex-wrap: wrap; justify-content: end; align-items: center; gap: .3rem .6rem; min-height: 2rem; }
  #doing { flex: 1 1 12rem; min-width: 0; color: var(--quiet); font-size: .85rem; overflow-wrap: anywhere; }
  #doing::first-letter { text-transform: uppercase; }
  #told { margin: .2rem 0 0; font-size: .9rem; overflow-wrap: anywhere; border-left: 3px solid var(--accent); padding-left: .6rem; }
  #told:empty { display: none; }
  form { display: flex; gap: .6rem; padding-block: .6rem max(.8rem, env(safe-area-inset-bottom)); }
  input {
    flex: 1; min-width: 0; font: inherit; padding: .6rem .9rem; border-radius: .8rem; border: 1px solid var(--line);
    background: var(--paper); color: var(--ink);
  }
</style>
<header><h1>Agent chat</h1><span id="state" role="status">new</span><a href="/" id="new">New chat</a></header>
<main id="parts" role="log" aria-live="polite">
  <section id="welcome">
    <h2>Say something</h2>
    <p>Stop the agent, or say something else while it speaks. Reload or open a second tab: the answer goes on at the next word.
      Kill the server and start it again: the model is asked anew, and you see exactly one of its answers.</p>
    <div>
      <button class="plain" type="button">Count to 500</button>
      <button class="plain" type="button">What are you?</button>
      <button class="plain" type="button">Order pizza for the team</button>
      <button class="plain" type="button">Plan a trip to Rome</button>
      <button class="plain" type="button">Research tea and coffee</button>
    </div>
  </section>
</main>
<section id="work" aria-label="What the agent does" hidden>
  <div class="row">
    <span id="doing" aria-live="polite"></span>
    <button class="plain small" type="button" id="what">What are you doing?</button>
    <button class="small" type="button" id="stop" title="Stop (Esc)" hidden>Stop</button>
  </div>
  <p id="told" aria-live="polite"></p>
</section>
<form id="say">
  <input id="text" autocomplete="off" maxlength="2000" placeholder="Your message" aria-label="Your message" required>
  <button>Send</button>
</form>
<script nonce="NONCE">
"use strict";
const find = (id) => document.getElementById(id);
const log = find("parts");
const chat = location.hash.slice(1) || crypto.randomUUID();
const base = `/chats/${encodeURIComponent(chat)}`;
const voices = new Map(), tools = new Map();
let heard = [], turn = 0, works = false, team = null, verdict = null, next = 0, source = null, status = null, pause = 500;

// Keeps the end of the conversation in view, unless somebody has scrolled up to read.
function grow(change) {
  const top = log.scrollTop, follows = log.scrollHeight - top - log.clientHeight < 80;
  const made = change();
  if (follows) log.scrollTop = log.scrollHeight;
  else if (log.scrollTop !== top) log.scrollTop = top;
  return made;
}

// What comes from the workflow goes on the page as text, never as HTML.
function make(tag, kind, text = "") {
  const element = document.createElement(tag);
  element.className = kind;
  element.textContent = text;
  return element;
}

function add(tag, kind, text) {
  find("welcome")?.remove();
  return grow(() => log.appendChild(make(tag, kind, text)));
}

function button(label, kind, act) {
  const element = make("button", kind, label);
  element.type = "button";
  element.onclick = act;
  return element;
}

// Where somebody speaks: the agent in a bubble of its own, its sub-agents side by side.
function voice(agent) {
  if (!voices.has(agent)) {
    if (agent === "" || voices.has("")) silence();
    if (agent === "") return voices.set("", add("div", "agent speaks")).get("");
    team ??= add("div", "team");
    const section = make("section", ""), bubble = make("div", "agent speaks");
    section.append(make("h2", "", agent), bubble);
    grow(() => team.append(section));
    voices.set(agent, bubble);
  }
  return voices.get(agent);
}

function silence() {
  for (const bubble of voices.values()) bubble.classList.remove("speaks");
  voices.clear();
  team = null;
}

function rest() {
  silence();
  verdict?.replaceChildren(make("span", "quiet", "withdrawn"));
  verdict = null;
  find("skip")?.remove();
  works = false;
  find("stop").hidden = true;
}

const show = {
  said(part) {
    rest();
    [...log.querySelectorAll(".waits")].find((element) => element.textContent === part.text)?.remove();
    add("div", "you", part.text);
    if (part.turn > turn) find("told").textContent = "";
    turn = part.turn;
    works = true;
    find("stop").hidden = find("stop").disabled = false;
  },
  token(part) {
    const bubble = voice(part.agent);
    grow(() => bubble.append(part.text));
  },
  tools(part) {
    silence();
    const card = add("section", "card"), list = make("ul", "");
    for (const name of part.names) {
      const item = make("li", "runs"), found = make("span", "", "looking it up …");
      item.append(make("span", "", name), found);
      list.append(item);
      tools.set(name, found);
    }
    const skip = button("Skip what is slow", "plain small", () => { skip.disabled = true; post(`${base}/skips/${part.turn}`); });
    skip.id = "skip";
    grow(() => card.append(list, skip));
  },
  found(part) {
    const found = tools.get(part.name);
    found.textContent = part.text ?? "skipped";
    found.parentElement.className = part.text === null ? "skipped" : "found";
    if (log.querySelector(".runs") === null) find("skip")?.remove();
  },
  ask(part) {
    silence();
    const card = add("section", "card ask"), row = make("div", "row"), left = make("span", "quiet");
    const decide = (approved) => () => post(`${base}/approvals/${part.turn}`, { approved });
    left.setAttribute("role", "timer");
    row.append(button("Allow", "", decide(true)), button("Refuse", "plain", decide(false)), left);
    grow(() => card.append(make("p", "", part.text), row));
    verdict = row;
    const until = Date.parse(part.until);
    (function tick() {
      left.textContent = `${Math.max(0, Math.ceil((until - Date.now()) / 1000))} s left`;
      if (left.isConnected) setTimeout(tick, 500);
    })();
  },
  verdict({ approved }) {
    const words = approved === null ? "not decided in time" : approved ? "✓ You allowed it" : "✕ You refused it";
    verdict.replaceChildren(make("span", approved === null ? "late quiet" : approved ? "yes" : "no", words));
    verdict = null;
  },
  done(part) {
    if (!works) return;
    rest();
    if (part.stopped) add("p", "note", "■ Stopped");
  },
};

function say(state, words) {
  find("state").dataset.is = state;
  find("state").textContent = words;
}

// The model that is asked again, as after a crash, answers in other words: what it had said is taken back. So the page forgets all
// from that offset on, and shows the rest anew.
function rewind(offset) {
  const waiting = log.querySelectorAll(".waits");
  heard = heard.filter((one) => one.offset < offset);
  grow(() => {
    rest();
    log.replaceChildren();
    for (const { part } of heard) show[part.kind](part);
    log.append(...waiting);
  });
}

// Everything on the page is a value of the stream, and its event id is its offset: so whoever knows the next offset goes on
// exactly there. The browser does that by itself; only where it gives up (as when a proxy answers 502) a new source begins.
function follow() {
  source = new EventSource(`${base}/parts?offset=${next}`);
  find("work").hidden = false;
  source.onopen = () => { pause = 500; say("live", "live"); };
  source.onmessage = (message) => {
    const offset = Number(message.lastEventId), part = JSON.parse(message.data);
    next = offset + 1;
    heard.push({ offset, part });
    show[part.kind](part);
  };
  source.addEventListener("rewind", (message) => {
    next = Number(message.lastEventId) + 1;
    rewind(JSON.parse(message.data).offset);
  });
  source.addEventListener("end", () => { source.close(); rest(); say("over", "ended"); });
  source.addEventListener("failed", () => { source.close(); rest(); say("away", "failed"); });
  source.onerror = async () => {
    say("away", "reconnecting …");
    if (source.readyState !== EventSource.CLOSED) return;
    if (await isRefused(source.url)) say("over", "not a chat of yours");
    else setTimeout(follow, pause = Math.min(pause * 2, 8000));
  };
}

// What the agent does is an event of the workflow: its latest value comes first. Tabs that nobody sees do not watch, since a
// browser has few connections to one server.
function watch() {
  status?.close();
  if (source === null || document.hidden) return;
  status = new EventSource(`${base}/status`);
  status.onmessage = (message) => { find("doing").textContent = JSON.parse(message.data); };
  for (const end of ["end", "failed"]) status.addEventListener(end, () => status.close());
  status.onerror = () => { if (status.readyState === EventSource.CLOSED) setTimeout(watch, 2000); };
}

// An EventSource does not tell why it was refused.
async function isRefused(url) {
  const control = new AbortController();
  try {
    return [401, 404, 422].includes((await fetch(url, { signal: control.signal })).status);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;  // a TypeError is a server that cannot be reached
    return false;
  } finally {
    control.abort();
  }
}

// Sent again until the server has answered: whatever arrives twice counts once.
async function post(path, body) {
  for (;;) {
    try {
      const headers = { "Content-Type": "application/json" };
      const reply = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
      if (reply.status < 500) return reply;
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;  // a TypeError is a server that cannot be reached
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

// What is said is pale until the agent has heard it.
async function send(text) {
  if (location.hash === "") history.replaceState(null, "", `#${chat}`);
  add("div", "you waits", text);
  log.scrollTop = log.scrollHeight;
  const reply = await post(`${base}/messages`, { id: crypto.randomUUID(), text });
  if (!reply.ok) say("away", "not sent: start a new chat");
  else if (source === null) begin();
}

async function ask() {
  const reply = await post(`${base}/what`), words = reply.ok ? await reply.json() : "There is no answer.";
  grow(() => { find("told").textContent = words; });
}

function stop() {
  find("stop").disabled = true;
  post(`${base}/stops/${turn}`);
}

function begin() {
  follow();
  watch();
}

find("say").onsubmit = (event) => {
  event.preventDefault();
  if (source !== null && /^what are you doing\W*$/i.test(find("text").value)) ask();
  else send(find("text").value);
  find("text").value = "";
};
for (const button of find("welcome").querySelectorAll("button")) button.onclick = () => send(button.textContent);
find("what").onclick = ask;
find("stop").onclick = stop;
document.onkeydown = (event) => { if (event.key === "Escape" && works) stop(); };
document.onvisibilitychange = watch;
window.onhashchange = () => location.reload();
if (location.hash !== "") begin();
</script>
"""


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000, access_log=False)
