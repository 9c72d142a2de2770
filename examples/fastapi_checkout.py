"""A shop on the web: an order that is placed once however often the button is clicked, a payment page, a webhook, live status.

    pip install -e '.[embedded,fastapi]' && python examples/fastapi_checkout.py [PORT]

Open the address that it prints and buy a widget. Kill the server at any moment and start it again: the order goes on.

An order is a workflow. Its payment is an event of it, the payment provider's webhook is a message to it, and what the page
shows is a stream of it. What it takes from the shelf is a transaction: one commit with the record of that step.
"""

from __future__ import annotations

import functools
import hmac
import os
import re
import secrets
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
import uvicorn
from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from dbos_async import DBOS, Event, SetWorkflowID, Stream, Topic
from dbos_async.fastapi import add_error_handlers, lifespan, stream_response

A_YEAR = 365 * 24 * 3600
CENTS = 1990


# ── What travels ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Order(BaseModel):
    """What somebody wants; prices are the shop's affair."""

    quantity: int = Field(ge=1, le=9)
    note: str = Field(default="", max_length=200)


class Payment(BaseModel):
    """A payment that the provider has opened."""

    payment_id: str
    cents: int


class Progress(BaseModel):
    """One line of the order's story; ``state`` is how it is drawn."""

    text: str
    state: Literal["done", "waits", "failed"] = "done"


Status = Literal["paid", "declined"]

PAYMENT = Event("payment", Payment)
PAYMENT_STATUS = Topic[Status]("payment_status", Status)
PROGRESS = Stream("progress", Progress)


# ── The order ────────────────────────────────────────────────────────────────────────────────────────────────────────


@DBOS.transaction()
async def reserve(connection: asyncpg.Connection[Any], order_id: str, quantity: int) -> int:
    """Take them from the shelf, and write the order down."""
    print(f"✱ reserves {quantity}", flush=True)
    await connection.execute("insert into orders values ($1, $2)", order_id, quantity)
    return int(await connection.fetchval("update stock set pieces = pieces - $1 returning pieces", quantity))


@DBOS.step()
async def open_payment(order_id: str, cents: int) -> Payment:
    """Ask the payment provider for a payment."""
    print(f"✱ opens a payment of {cents / 100:.2f} €", flush=True)
    return Payment(payment_id=f"pay-{order_id}", cents=cents)


@DBOS.step()
async def ship(order: Order) -> str:
    """Hand it to the parcel service."""
    print(f"✱ ships {order.quantity}", flush=True)
    return "PARCEL-0815"


@DBOS.workflow()
async def checkout(order: Order) -> str:
    """Sell some widgets."""
    await DBOS.write_stream(PROGRESS, Progress(text=f"Order received: {order.quantity} \N{MULTIPLICATION SIGN} widget"))
    if order.note:
        await DBOS.write_stream(PROGRESS, Progress(text=f"Gift card: “{order.note}”"))
    left = await reserve(str(DBOS.workflow_id), order.quantity)
    await DBOS.write_stream(PROGRESS, Progress(text=f"Reserved, {left} left on the shelf"))

    payment = await open_payment(str(DBOS.workflow_id), order.quantity * CENTS)
    await DBOS.set_event(PAYMENT, payment)
    await DBOS.write_stream(PROGRESS, Progress(text="Waiting for your payment", state="waits"))

    status = await DBOS.recv(PAYMENT_STATUS, timeout_seconds=900)
    if status != "paid":
        why = "Payment declined" if status == "declined" else "No payment came"
        await DBOS.write_stream(PROGRESS, Progress(text=f"{why}, order cancelled", state="failed"))
        return "cancelled"

    await DBOS.write_stream(PROGRESS, Progress(text="Paid, thank you"))
    parcel = await ship(order)
    await DBOS.write_stream(PROGRESS, Progress(text=f"Shipped as {parcel}"))
    return "completed"


# ── Who asks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def secret() -> bytes:
    """Signs cookies and webhooks. It outlives the server, so that customers stay who they are."""
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


def signature(purpose: str, data: bytes) -> str:
    """What only somebody who knows the secret can make; what is signed for one purpose is worth nothing for another."""
    return hmac.new(secret(), purpose.encode() + b"\0" + data, "sha256").hexdigest()


def is_signature(given: str, purpose: str, data: bytes) -> bool:
    """Compares in constant time, so that it cannot be guessed letter by letter."""
    return hmac.compare_digest(given.encode(), signature(purpose, data).encode())


def find_customer(session: Annotated[str, Cookie()] = "") -> str:
    """The customer, by the signed cookie that the shop's page has set."""
    name, _, signed = session.partition(".")
    if not is_signature(signed, "session", name.encode()):
        raise HTTPException(401, "Open the shop first: it tells the server who you are.")
    return name


def find_order(key: UUID, customer: Annotated[str, Depends(find_customer)]) -> str:
    """The workflow's id contains the customer, so nobody can as much as name the order of somebody else."""
    return f"order-{customer}-{key}"


OrderID = Annotated[str, Depends(find_order)]


# ── The web ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@DBOS.transaction()
async def open_shop(connection: asyncpg.Connection[Any]) -> None:
    """The tables of the shop, and what is on the shelf."""
    await connection.execute("""
        create table if not exists orders (id text primary key, quantity integer not null);
        create table if not exists stock (item text primary key, pieces integer not null);
        insert into stock values ('widget', 42) on conflict (item) do update set pieces = 42 where stock.pieces < 9
    """)


@asynccontextmanager
async def opened(app: FastAPI) -> AsyncGenerator[None]:
    """Open the shop before the first customer comes."""
    await open_shop()
    yield


# A killed server that starts again is the same executor, and takes its orders over at once.
app = FastAPI(title="Widget shop", lifespan=lifespan(executor_id="fastapi-checkout", inside=opened))
add_error_handlers(app)
# What is longer is refused (413) before anything of it is parsed.
app.add_middleware(RequestBodyLimitMiddleware, max_body_size=16_384)


class Placed(BaseModel):
    """Where the order can be paid."""

    cents: int
    payment_page: str


@app.post("/checkout/{key}")
async def place(key: UUID, order_id: OrderID, order: Order) -> Placed:
    """Place an order. The browser makes the key up, so that however often it asks, there is one order: the first."""
    with SetWorkflowID(order_id):
        await DBOS.start_workflow(checkout, order)
    payment = await DBOS.get_event(order_id, PAYMENT, timeout_seconds=10)
    if payment is None:
        raise HTTPException(503, "The payment is not open yet: ask again.", {"Retry-After": "2"})
    return Placed(cents=payment.cents, payment_page=f"/pay/{key}")


@app.get("/orders/{key}")
async def status(order_id: OrderID) -> dict[str, Any]:
    """How the order stands now."""
    found = await (await DBOS.retrieve_workflow(order_id)).get_status()
    return {"status": found.status, "result": found.output}


@app.get("/orders/{key}/progress")
async def progress(request: Request, order_id: OrderID) -> Response:
    """Everything that the page shows, live."""
    return await stream_response(request, order_id, PROGRESS)


class Notice(BaseModel):
    """What the payment provider tells by its webhook."""

    payment_id: str
    order_id: str
    status: Status


@app.post("/webhooks/payments", status_code=202)
async def webhook(request: Request, payment_signature: Annotated[str, Header()] = "") -> None:
    """The payment provider tells how a payment went: as often as it likes, the first notice of a payment counts."""
    await accept(await request.body(), payment_signature)


async def accept(body: bytes, signed: str) -> None:
    """Nothing of a notice is even parsed before its signature was found right."""
    if not is_signature(signed, "webhook", body):
        raise HTTPException(401, "This notice does not come from the payment provider.")
    try:
        notice = Notice.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, error.errors(include_url=False, include_input=False, include_context=False)) from None
    await DBOS.send(notice.order_id, notice.status, PAYMENT_STATUS, idempotency_key=notice.payment_id)


# ── The payment provider: in earnest a site of somebody else ─────────────────────────────────────────────────────────


@app.get("/pay/{key}", response_class=HTMLResponse)
async def payment_page(key: UUID, order_id: OrderID) -> Response:
    """Where the customer pays."""
    await DBOS.retrieve_workflow(order_id)
    payment = await DBOS.get_event(order_id, PAYMENT, timeout_seconds=10)
    if payment is None:
        raise HTTPException(503, "The payment is not open yet: ask again.", {"Retry-After": "2"})
    return html(PAY_PAGE, AMOUNT=f"{payment.cents / 100:.2f} €", ORDER=str(key))


@app.post("/pay/{key}/{status}", status_code=303, response_class=RedirectResponse)
async def pay(key: UUID, order_id: OrderID, status: Status) -> Response:
    """The customer has decided; the provider tells the shop by its webhook and sends the customer back there."""
    payment = await DBOS.get_event(order_id, PAYMENT, timeout_seconds=0)
    if payment is None:
        raise HTTPException(404, "There is no payment of this order.")
    body = Notice(payment_id=payment.payment_id, order_id=order_id, status=status).model_dump_json().encode()
    await accept(body, signature("webhook", body))
    return RedirectResponse(f"/#{key}", 303)


# ── The pages ────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.get("/", response_class=HTMLResponse)
async def shop(session: Annotated[str, Cookie()] = "") -> Response:
    """The shop; whoever comes for the first time gets a name."""
    answer = html(SHOP_PAGE, PRICE=f"{CENTS / 100:.2f} €")
    name, _, signed = session.partition(".")
    if not is_signature(signed, "session", name.encode()):
        name = secrets.token_hex(16)
        signed = signature("session", name.encode())
        # In earnest with secure=True, behind HTTPS. Other sites can link here, but not post here in this customer's name.
        answer.set_cookie("session", f"{name}.{signed}", max_age=A_YEAR, httponly=True, samesite="lax")
    return answer


def html(template: str, **values: str) -> Response:
    """A page: its values are escaped, and it runs no script and takes no style but its own."""
    nonce = secrets.token_urlsafe(16)
    texts = {"STYLE": STYLE, "NONCE": nonce} | {name: escape(value) for name, value in values.items()}
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src data:; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
    )
    headers = {
        "Content-Security-Policy": f"{policy}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        "Cache-Control": "no-store",
    }
    return HTMLResponse(re.sub(r"\{\{(\w+)\}\}", lambda found: texts[found[1]], template), headers=headers)


STYLE = """
  :root {
    color-scheme: light dark;
    --ground: #f4f5f1; --paper: #fff; --ink: #20231f; --quiet: #666c63; --line: #dfe3da; --accent: #1f6f4a; --on-accent: #fff;
    --shape: #cfe3d7; --bad: #b3372d; --wait: #a86a00;
  }
  @media (prefers-color-scheme: dark) {
    :root {
      --ground: #141715; --paper: #1e2320; --ink: #e9ece8; --quiet: #9aa39b; --line: #323a35; --accent: #74d3a4;
      --on-accent: #0d1912; --shape: #2c4a3b; --bad: #ff8f84; --wait: #f1bd5d;
    }
  }
  * { box-sizing: border-box; }
  [hidden] { display: none !important; }
  body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
  header, main { max-width: 44rem; margin: 0 auto; padding: 1rem; }
  header { display: flex; align-items: center; border-bottom: 1px solid var(--line); }
  header b { flex: 1; }
  a { color: var(--accent); }
  .card { background: var(--paper); border: 1px solid var(--line); border-radius: 1rem; padding: 1.4rem; margin-top: 1.2rem; }
  .product { display: grid; grid-template-columns: 14rem 1fr; gap: 1.6rem; align-items: center; }
  @media (max-width: 38rem) { .product { grid-template-columns: 1fr; } .product svg { max-height: 9rem; } }
  svg { width: 100%; background: var(--ground); border-radius: .8rem; }
  h1 { margin: 0; font-size: 1.5rem; line-height: 1.25; } h2 { margin: 0 0 .8rem; font-size: 1.15rem; }
  p { margin: .4rem 0 1rem; color: var(--quiet); }
  .price { font-size: 1.3rem; font-weight: 700; color: var(--ink); }
  label { display: block; font-size: .85rem; color: var(--quiet); margin-bottom: .8rem; }
  input, select {
    display: block; width: 100%; font: inherit; font-size: 1rem; margin-top: .2rem; padding: .5rem .7rem; border-radius: .6rem;
    border: 1px solid var(--line); background: var(--ground); color: var(--ink);
  }
  button, .button {
    display: inline-block; font: inherit; font-weight: 600; padding: .6rem 1.3rem; border-radius: .7rem; cursor: pointer;
    border: 1px solid var(--accent); background: var(--accent); color: var(--on-accent); text-decoration: none;
  }
  button.plain { background: none; color: var(--accent); }
  button:disabled { opacity: .5; cursor: default; }
  @media (max-width: 38rem) { .product button { width: 100%; } }
  :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
  ol { list-style: none; margin: 0 0 1.2rem; padding: 0; }
  li { position: relative; padding: 0 0 1rem 2.2rem; overflow-wrap: anywhere; }
  li::before {
    content: "✓"; position: absolute; left: 0; top: .05rem; width: 1.5rem; height: 1.5rem; border-radius: 50%; font-size: .85rem;
    display: grid; place-items: center; background: var(--accent); color: var(--on-accent);
  }
  li:not(:last-child)::after {
    content: ""; position: absolute; left: .7rem; top: 1.7rem; bottom: 0; width: 2px; background: var(--line);
  }
  li.waits:last-child::before { content: "…"; background: var(--wait); }
  li.failed::before { content: "✕"; background: var(--bad); }
  #state { font-size: .85rem; color: var(--quiet); }
  .row { display: flex; gap: .8rem; flex-wrap: wrap; align-items: center; }
"""

SHOP_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Widget shop</title>
<link rel="icon" href="data:,">
<style nonce="{{NONCE}}">{{STYLE}}</style>
<header><b>Widget shop</b><a href="/">Shop</a></header>
<main>
  <form class="card product" id="buy" hidden>
    <svg viewBox="0 0 120 100" role="img" aria-label="A widget">
      <g fill="none" stroke="var(--accent)" stroke-width="3" stroke-linejoin="round">
        <path d="M60 16 96 34v36L60 88 24 70V34Z" fill="var(--shape)"/><path d="M24 34l36 18 36-18M60 52v36"/>
        <circle cx="60" cy="34" r="6" fill="var(--paper)"/>
      </g>
    </svg>
    <div>
      <h1>The widget</h1>
      <p>It does what widgets do, durably.</p>
      <p class="price">{{PRICE}}</p>
      <label>Quantity <select name="quantity"><option>1<option>2<option>3<option>4<option>5</select></label>
      <label>Gift card <input name="note" maxlength="200" placeholder="optional"></label>
      <button>Buy</button>
    </div>
  </form>
  <section class="card" id="order" hidden>
    <h2>Your order</h2>
    <ol id="progress" aria-live="polite"></ol>
    <div class="row"><a class="button" id="pay" hidden>Pay</a><span id="state" role="status"></span></div>
  </section>
</main>
<script nonce="{{NONCE}}">
"use strict";
const find = (id) => document.getElementById(id);
let next = 0, pause = 500;

// What comes from the order goes on the page as text, never as HTML.
function show(line) {
  const item = document.createElement("li");
  item.className = line.state;
  item.textContent = line.text;
  find("progress").append(item);
  find("pay").hidden = line.state !== "waits";
}

function follow(key) {
  find("order").hidden = false;
  find("buy").hidden = true;
  find("pay").href = `/pay/${key}`;
  const source = new EventSource(`/orders/${key}/progress?offset=${next}`);
  source.onopen = () => { pause = 500; find("state").textContent = "Live"; };
  source.onmessage = (message) => {
    next = Number(message.lastEventId) + 1;
    show(JSON.parse(message.data));
  };
  source.addEventListener("end", () => { source.close(); find("state").textContent = "This order is closed."; });
  source.addEventListener("failed", () => { source.close(); find("state").textContent = "This order was stopped."; });
  source.onerror = async () => {
    find("state").textContent = "Reconnecting …";
    if (source.readyState !== EventSource.CLOSED) return;
    if (await isRefused(`/orders/${key}`)) find("state").textContent = "There is no such order of yours.";
    else setTimeout(() => follow(key), pause = Math.min(pause * 2, 8000));
  };
}

// An EventSource does not tell why it was refused.
async function isRefused(url) {
  try {
    return [401, 404, 422].includes((await fetch(url)).status);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;  // a TypeError is a server that cannot be reached
    return false;
  }
}

// The key belongs to what is on the page, not to the click: two clicks, or a repeated request, are one order.
const key = encodeURIComponent(location.hash.slice(1) || crypto.randomUUID());

find("buy").onsubmit = async (event) => {
  event.preventDefault();
  const form = new FormData(find("buy"));
  const body = JSON.stringify({ quantity: Number(form.get("quantity")), note: form.get("note") });
  const headers = { "Content-Type": "application/json" };
  for (const control of find("buy").elements) control.disabled = true;
  for (;;) {
    try {
      const reply = await fetch(`/checkout/${key}`, { method: "POST", headers, body });
      if (reply.status < 500) break;
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;  // a TypeError is a server that cannot be reached
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  history.replaceState(null, "", `#${key}`);
  follow(key);
};
window.onhashchange = () => location.reload();
if (location.hash !== "") follow(key);
else find("buy").hidden = false;
</script>
"""

PAY_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Payment</title>
<link rel="icon" href="data:,">
<style nonce="{{NONCE}}">{{STYLE}}</style>
<header><b>Payments Inc.</b><a href="/#{{ORDER}}">Back to the shop</a></header>
<main>
  <section class="card">
    <h2>Widget shop asks for</h2>
    <p class="price">{{AMOUNT}}</p>
    <p>Order {{ORDER}}</p>
    <div class="row">
      <form method="post" action="/pay/{{ORDER}}/paid"><button>Pay {{AMOUNT}}</button></form>
      <form method="post" action="/pay/{{ORDER}}/declined"><button class="plain">Decline</button></form>
    </div>
  </section>
</main>
"""


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000, access_log=False)
