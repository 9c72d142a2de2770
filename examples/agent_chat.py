"""An agent that talks to you in a browser, asks before it spends money, and goes on where it was after kill -9.

    pip install -e '.[embedded,fastapi]' && python examples/agent_chat.py [PORT]

Open the address that it prints. Reload the page while the agent speaks, open it in a second tab, kill the server and start
it again: the page goes on at the very next token, none twice and none missing. The model is a local stand-in, no network needed.

A chat is a workflow. What you say and what you allow are messages to it; what the page shows is a stream of it, and nothing else.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import uvicorn
from fastapi import Cookie, Depends, FastAPI, HTTPException, Request, Response
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from dbos_async import DBOS, SetWorkflowID, Stream, Topic
from dbos_async.fastapi import add_error_handlers, lifespan, stream_response

TOKEN_SECONDS = float(os.environ.get("AGENT_TOKEN_SECONDS", "0.04"))
A_DAY = 24 * 3600

ABOUT = (
    "I am a small stand-in for a language model, and this chat is a durable workflow. Every token is stored in Postgres "
    "before you see it. So reload this page while I speak, open it in a second tab, or kill the server with kill -9 and "
    "start it again: I go on at the very next word."
)


# ── What travels ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Said(BaseModel):
    """What the person said."""

    kind: Literal["said"] = "said"
    text: str


class Token(BaseModel):
    """A piece of what the agent says."""

    kind: Literal["token"] = "token"
    text: str


class Ask(BaseModel):
    """The agent wants to do something that it may not do unasked."""

    kind: Literal["ask"] = "ask"
    question: int
    text: str


class Verdict(BaseModel):
    """What the person decided."""

    kind: Literal["verdict"] = "verdict"
    question: int
    approved: bool


class Done(BaseModel):
    """The agent has answered and listens."""

    kind: Literal["done"] = "done"


Part = Said | Token | Ask | Verdict | Done

PARTS = Stream[Part]("parts", Part)
SAYS = Topic("says", str)


def approval(question: int) -> Topic[bool]:
    """Each question has a topic of its own, so that no answer is taken for that of another."""
    return Topic(f"approval-{question}", bool)


# ── The agent ────────────────────────────────────────────────────────────────────────────────────────────────────────


def model(prompt: str) -> list[str]:
    """The stand-in for a language model: the tokens of its answer."""
    if count := re.search(r"count to (\d{1,4})\b", prompt, re.IGNORECASE):
        return [f"{n} " for n in range(1, min(int(count[1]), 1000) + 1)]
    text = prompt.removeprefix("Say: ") if prompt.startswith("Say: ") else ABOUT
    return re.findall(r"\S+\s*", text)


@DBOS.step()
async def next_token(prompt: str, written: int) -> str | None:
    """What comes after so many tokens. A real model would be asked to go on after what is written already."""
    await asyncio.sleep(TOKEN_SECONDS)
    tokens = model(prompt)
    return tokens[written] if written < len(tokens) else None


@DBOS.step()
async def place_order(what: str) -> str:
    """The side effect that wants a person's consent."""
    print(f"✱ orders {what}", flush=True)
    return f"ORDER-{sum(map(ord, what)) % 10_000:04}"


async def speak(prompt: str) -> None:
    """Say the model's answer token by token; each is a step, so that none is said twice."""
    written = 0
    while (token := await next_token(prompt, written)) is not None:
        await DBOS.write_stream(PARTS, Token(text=token))
        written += 1


@DBOS.workflow()
async def chat() -> None:
    """Answer until nothing was said for a day."""
    question = 0
    while (text := await DBOS.recv(SAYS, timeout_seconds=A_DAY)) is not None:
        await DBOS.write_stream(PARTS, Said(text=text))
        wish = re.search(r"\b(?:order|buy)\s+(\S.*)", text, re.IGNORECASE | re.DOTALL)
        if wish is None:
            await speak(text)
        else:
            question += 1
            what = wish[1].rstrip(" .!?")[:100]
            await speak("Say: Gladly. That costs money, so I ask you first:")
            await DBOS.write_stream(PARTS, Ask(question=question, text=f"Order {what} for 48.00 €?"))
            approved = await DBOS.recv(approval(question), timeout_seconds=A_DAY)
            await DBOS.write_stream(PARTS, Verdict(question=question, approved=approved is True))
            if approved:
                await speak(f"Say: Ordered. The number is {await place_order(what)}.")
            else:
                await speak("Say: All right, nothing was ordered.")
        await DBOS.write_stream(PARTS, Done())


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


@app.post("/chats/{chat}/messages", status_code=202)
async def say(chat_id: ChatID, message: Message) -> None:
    """Say something; the first message begins the chat."""
    with SetWorkflowID(chat_id):
        await DBOS.start_workflow(chat)
    await DBOS.send(chat_id, message.text, SAYS, idempotency_key=str(message.id))


@app.post("/chats/{chat}/approvals/{question}", status_code=202)
async def decide(chat_id: ChatID, question: Annotated[int, InPath(ge=1, le=10_000)], decision: Approval) -> None:
    """Answer a question of the agent. The first answer counts, however often somebody clicks."""
    if not await DBOS.send(chat_id, decision.approved, approval(question), idempotency_key=f"approval-{question}"):
        raise HTTPException(409, "This chat has ended.")


@app.get("/chats/{chat}/parts")
async def parts(request: Request, chat_id: ChatID) -> Response:
    """Everything that the page shows, live."""
    return await stream_response(request, chat_id, PARTS)


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


PAGE = """<!doctype html>
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
  .you, .agent, .ask { padding: .6rem .9rem; border-radius: 1rem; max-width: 85%; overflow-wrap: anywhere; white-space: pre-wrap; }
  .you { align-self: flex-end; background: var(--accent); color: var(--on-accent); border-bottom-right-radius: .25rem; }
  .waits { opacity: .5; }
  .agent { align-self: flex-start; background: var(--paper); border: 1px solid var(--line); border-bottom-left-radius: .25rem; }
  .agent.speaks::after {
    content: ""; display: inline-block; width: .5em; height: 1em; vertical-align: -.15em; background: var(--accent);
    animation: blink 1s steps(2) infinite;
  }
  @keyframes blink { 50% { opacity: 0; } }
  @media (prefers-reduced-motion: reduce) { .agent.speaks::after { animation: none; } }
  .ask { align-self: flex-start; background: var(--paper); border: 1px solid var(--accent); min-width: min(22rem, 85%); }
  .ask p { margin: 0 0 .6rem; font-weight: 600; }
  .ask div { display: flex; gap: .6rem; align-items: center; min-height: 2.6rem; }
  .ask .yes { color: var(--good); } .ask .no { color: var(--bad); }
  button {
    font: inherit; padding: .5rem 1.1rem; border-radius: .7rem; border: 1px solid var(--accent); background: var(--accent);
    color: var(--on-accent); cursor: pointer;
  }
  button.plain { background: none; color: var(--accent); }
  button:disabled { opacity: .45; cursor: default; }
  :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
  #welcome { margin: auto; text-align: center; color: var(--quiet); max-width: 36rem; }
  #welcome h2 { color: var(--ink); margin: 0 0 .3rem; }
  #welcome div { display: flex; flex-wrap: wrap; gap: .6rem; justify-content: center; margin-top: 1.2rem; }
  form { display: flex; gap: .6rem; padding-block: .8rem max(.8rem, env(safe-area-inset-bottom)); }
  input {
    flex: 1; min-width: 0; font: inherit; padding: .6rem .9rem; border-radius: .8rem; border: 1px solid var(--line);
    background: var(--paper); color: var(--ink);
  }
</style>
<header><h1>Agent chat</h1><span id="state" role="status">new</span><a href="/" id="new">New chat</a></header>
<main id="parts" role="log" aria-live="polite">
  <section id="welcome">
    <h2>Say something</h2>
    <p>Then reload, open a second tab, or kill the server and start it again. The answer goes on at the next word.</p>
    <div>
      <button class="plain" type="button">Count to 500</button>
      <button class="plain" type="button">What are you?</button>
      <button class="plain" type="button">Order pizza for the team</button>
    </div>
  </section>
</main>
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
const asks = new Map();
let answer = null, next = 0, source = null, pause = 500;

// What comes from the workflow goes on the page as text, never as HTML.
function add(tag, kind, text = "") {
  find("welcome")?.remove();
  const element = document.createElement(tag);
  element.className = kind;
  element.textContent = text;
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  log.append(element);
  if (follows) log.scrollTop = log.scrollHeight;
  return element;
}

const show = {
  said(part) {
    const waiting = [...log.querySelectorAll(".waits")].find((element) => element.textContent === part.text);
    waiting?.remove();
    add("div", "you", part.text);
  },
  token(part) {
    answer ??= add("div", "agent speaks");
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    answer.append(part.text);
    if (follows) log.scrollTop = log.scrollHeight;
  },
  ask(part) {
    finish();
    const card = add("section", "ask");
    const text = document.createElement("p");
    text.textContent = part.text;
    const row = document.createElement("div");
    for (const [label, approved] of [["Allow", true], ["Refuse", false]]) {
      const button = document.createElement("button");
      button.textContent = label;
      button.className = approved ? "" : "plain";
      button.onclick = () => post(`${base}/approvals/${part.question}`, { approved });
      row.append(button);
    }
    card.append(text, row);
    log.scrollTop = log.scrollHeight;
    asks.set(part.question, row);
  },
  verdict(part) {
    const words = document.createElement("span");
    words.className = part.approved ? "yes" : "no";
    words.textContent = part.approved ? "✓ You allowed it" : "✕ You refused it";
    asks.get(part.question).replaceChildren(words);
  },
  done() { finish(); },
};

function finish() {
  answer?.classList.remove("speaks");
  answer = null;
}

function say(state, words) {
  find("state").dataset.is = state;
  find("state").textContent = words;
}

// Everything on the page is a value of the stream, and its event id is its offset: so whoever knows the next offset goes on
// exactly there. The browser does that by itself; only where it gives up (as when a proxy answers 502) a new source begins.
function follow() {
  source = new EventSource(`${base}/parts?offset=${next}`);
  source.onopen = () => { pause = 500; say("live", "live"); };
  source.onmessage = (message) => {
    next = Number(message.lastEventId) + 1;
    const part = JSON.parse(message.data);
    show[part.kind](part);
  };
  source.addEventListener("end", () => { source.close(); finish(); say("over", "ended"); });
  source.addEventListener("failed", () => { source.close(); finish(); say("away", "stopped"); });
  source.onerror = async () => {
    say("away", "reconnecting …");
    if (source.readyState !== EventSource.CLOSED) return;
    if (await isRefused(source.url)) say("over", "not a chat of yours");
    else setTimeout(follow, pause = Math.min(pause * 2, 8000));
  };
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
      if (reply.status < 500) return reply.ok;
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
  const arrived = await post(`${base}/messages`, { id: crypto.randomUUID(), text });
  if (!arrived) say("away", "not sent: start a new chat");
  else if (source === null) follow();
}

find("say").onsubmit = (event) => {
  event.preventDefault();
  send(find("text").value);
  find("text").value = "";
};
for (const button of find("welcome").querySelectorAll("button")) button.onclick = () => send(button.textContent);
window.onhashchange = () => location.reload();
if (location.hash !== "") follow();
</script>
"""


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000, access_log=False)
