"""Answers in HTML: a whole page, a part of one that a script asks for again, or one sentence that says what is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from dbos_async._logs import Lines
from dbos_async._page import guard, texts
from dbos_async._page.site import Site

FOLDER: Final = Path(__file__).parent
MAX_FORM_BYTES: Final = 32 * 2**20
"""How large a form may be: it may carry a message of 8 MiB, whose characters may be escaped."""
MAX_TOLD: Final = 1_000
"""How many characters an action has to say at most: they travel in an address."""
_SEEN: Final = "seen"
_NOT_OF_SCREEN: Final = (_SEEN, "notice", "notice_by", "failed", "failed_by")
_MARK: Final = "~seen~"


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=texts.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "value": texts.value_of,
        "errors": texts.errors_of,
        "moment": texts.moment,
        "countdown": texts.countdown,
        "duration": texts.duration,
        "status": texts.status,
        "size": texts.size,
        "number": lambda count: f"{count:,}",
        "lines": Lines,
        "exact": escape,
        "urlencode": lambda text: escape(quote(str(text), safe="")),
    }
    helpers: dict[str, Any] = made.globals
    helpers["href"] = href
    return made


def query_of(pairs: Sequence[tuple[str, Any]]) -> Markup:
    """These as the query of a URL: escaped, and never cut as shown texts are."""
    return escape(urlencode([(name, value) for name, value in pairs if value is not None], doseq=True))


def href(place: str, **query: Any) -> Markup:
    """A link to a screen. All screens lie side by side, so links are relative, and the page works under any prefix."""
    text = query_of([*query.items()])
    return Markup("{}?{}").format(place, text) if text else escape(place)


_TEMPLATES: Final = _environment()


def site_of(request: Request) -> Site:
    """The page that this request asks."""
    site: Site = request.app.state.site
    return site


def render(
    request: Request, template: str, status_code: int = 200, *, poll: float | None = None, **values: Any
) -> Response:
    """Answer with a screen, or with its changing part if a script asks; 204 if that has not changed since.

    The script asks every ``poll`` seconds, ``None`` for never.
    """
    is_part = "hx-request" in request.headers
    token = guard.token_of(request)
    text = _TEMPLATES.get_template(template).render(
        **values,
        poll=poll,
        base="part.html" if is_part else "base.html",
        token=token,
        mark=_MARK,
        now=datetime.now(UTC),
        here=_here(request),
        read_only=site_of(request).read_only,
        notice=_told(request, "notice"),
        failed=_told(request, "failed"),
    )
    seen = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    if is_part and request.query_params.get(_SEEN) == seen:
        return Response(status_code=204)
    response = HTMLResponse(text.replace(_MARK, seen), status_code, {"Vary": "HX-Request"})
    guard.keep_token(request, response, token)
    return response


def _here(request: Request) -> Markup:
    pairs = [pair for pair in request.query_params.multi_items() if pair[0] not in _NOT_OF_SCREEN]
    place, query = request.url.path.rpartition("/")[2] or "./", query_of(pairs)
    return Markup("{}?{}").format(place, query) if query else escape(place)


def say(request: Request, status_code: int, title: str, sentence: str) -> Response:
    """Answer with one sentence that says what is wrong."""
    return render(request, "problem.html", status_code, title=title, sentence=sentence)


def go(request: Request, place: str, *, notice: str | None = None, failed: str | None = None, **query: Any) -> Response:
    """Answer an action: the browser goes to a screen, which says what was done, or what went wrong."""
    told = {name: text[:MAX_TOLD] for name, text in (("notice", notice), ("failed", failed)) if text}
    signed = {f"{name}_by": guard.signature(request, text) for name, text in told.items()}
    more = urlencode(
        [(name, value) for name, value in (query | told | signed).items() if value is not None], doseq=True
    )
    return RedirectResponse(f"{place}{'&' if '?' in place else '?'}{more}" if more else place, 303)


def _told(request: Request, name: str) -> str | None:
    """What an action has to say. A link of somebody else cannot put words into the mouth of the page."""
    text, by = request.query_params.get(name), request.query_params.get(f"{name}_by", "")
    return text if text and guard.is_signed(request, text, by) else None


class Form:
    """The fields of a form whose token was checked."""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        self._fields = fields

    def all(self, name: str) -> list[str]:
        """Every value of a field."""
        return [value for key, value in self._fields if key == name]

    def text(self, name: str) -> str:
        """The value of a field, empty without one."""
        return next(iter(self.all(name)), "")

    @staticmethod
    async def of(request: Request) -> Form:
        """Read the form of a request. Raises an ``HTTPException`` when it is too large, is none, or has no token."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM_BYTES:
                raise HTTPException(413, f"A form may have at most {MAX_FORM_BYTES:,} bytes.")
        try:
            fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=10_000)
        except ValueError:
            raise HTTPException(400, "This form cannot be read.") from None
        form = Form(fields)
        if not guard.has_token(request, form.text(guard.FIELD)):
            raise HTTPException(403, "The token of this form is not that of this browser: load the page again.")
        return form


def wanted(request: Request, name: str) -> str:
    """A parameter of the URL that must be there."""
    value = request.query_params.get(name)
    if not value:
        raise HTTPException(422, f"The address must say which {name} is meant: …?{name}=…")
    return value
