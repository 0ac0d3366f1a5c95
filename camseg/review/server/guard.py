"""Who may ask: one machine, known browsers, this very page."""

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE: Final = "camseg_review"
"""The cookie that a browser gets for a one-time address; of each port another one, for ports share cookies."""
WRITE_HEADER: Final = "x-camseg-review"
"""A header that no form and no image of another site can send without being asked for leave first."""
SECURITY: Final[Mapping[str, str]] = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer."""
LARGEST_BODY: Final = 32 << 20
"""Bytes of a request; larger ones are refused before they are read."""


@dataclass(kw_only=True)
class Doors:
    """One-time addresses, and the cookies that they became. Not for several threads at once."""

    port: int
    """Where the server listens."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Unused tokens, with the number of the reviewer."""
    keys: dict[str, int] = field(default_factory=dict)
    """Cookies, with the number of the reviewer."""

    def invite(self, reviewer: int) -> str:
        """The path of a one-time address."""
        token = secrets.token_urlsafe(32)
        self.tokens[token] = reviewer
        return f"/open/{token}"

    def enter(self, token: str) -> str | None:
        """The cookie for a token that has not been used; None for any other."""
        found = next((known for known in self.tokens if hmac.compare_digest(known.encode(), token.encode())), None)
        if found is None:
            return None
        key = secrets.token_urlsafe(32)
        self.keys[key] = self.tokens.pop(found)
        return key

    def reviewer(self, headers: Headers) -> int | None:
        """The reviewer whose cookie a request carries; None for none."""
        # Other programs of this machine share the cookies and may write any; SimpleCookie stops at odd ones.
        given = cookie_parser(headers.get("cookie", "")).get(self.cookie, "")
        return next((one for key, one in self.keys.items() if hmac.compare_digest(key.encode(), given.encode())), None)

    @property
    def cookie(self) -> str:
        """The cookie's name."""
        return f"{COOKIE}_{self.port}"

    @property
    def hosts(self) -> frozenset[str]:
        """What requests may call this server: names of this machine alone, so that no other site's name leads here."""
        return frozenset(f"{name}:{self.port}" for name in ("127.0.0.1", "localhost", "[::1]"))


class Guard:
    """Passes on what comes from the page, and refuses the rest before anything is read."""

    def __init__(self, app: "ASGIApp", doors: Doors) -> None:
        self.app, self.doors = app, doors

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """One request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def secured(message: "Message") -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    if name != "cache-control" or name not in headers:
                        headers[name] = value
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            status, words = refusal
            await PlainTextResponse(words + "\n", status)(scope, receive, secured)
            return
        await self.app(scope, _limited(receive), secured)

    def _refusal(self, scope: "Scope", headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if host not in self.doors.hosts or len(headers.getlist("host")) != 1:
            return 421, (
                f"expected to be called {' or '.join(sorted(self.doors.hosts))}; through a tunnel use the same port at "
                "both ends"
            )
        method, path = scope["method"], scope["path"]
        if method not in ("GET", "HEAD", "POST"):
            return 405, "expected GET or POST"
        if path.startswith("/open/"):
            return None if method == "GET" else (405, "expected GET")
        reviewer = self.doors.reviewer(headers)
        if reviewer is None:
            return 403, "open the address that camseg review printed; each opens the page in one browser, once"
        scope.setdefault("state", {})["reviewer"] = reviewer
        if method == "POST":
            if headers.get("origin") != f"http://{host}":
                return 403, "expected a request of the page itself"
            if headers.get(WRITE_HEADER) != "1":
                return 403, f"expected the header {WRITE_HEADER}"
            length = headers.get("content-length", "")
            if not length.isascii() or not length.isdigit():
                return 411, "expected the length of the body"
            if int(length) > LARGEST_BODY:
                return 413, f"expected at most {LARGEST_BODY} bytes"
        return None


def _limited(receive: "Receive") -> "Receive":
    """The body, cut where it exceeds the limit whatever its head said."""
    taken = 0

    async def limited() -> "Message":
        nonlocal taken
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > LARGEST_BODY:
                return {"type": "http.disconnect"}
        return message

    return limited
