"""The page's endpoints: thin, each asks the desk."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from camseg.base.errors import CamsegError, StaleMaskError
from camseg.review.items import MaskItem
from camseg.review.server.desk import ConflictError, Desk, PageVerdict, encode_labels, encode_mask, encode_picture
from camseg.review.server.guard import Doors, Guard
from camseg.review.solving import Solver

PAGE: Final = "index.html"
STATIC: Final[Mapping[str, str]] = {
    PAGE: "text/html; charset=utf-8",
    "review.css": "text/css; charset=utf-8",
    "main.js": "text/javascript; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
    "mask.js": "text/javascript; charset=utf-8",
    "history.js": "text/javascript; charset=utf-8",
    "timer.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""The page's own files, and what they are; no other is given out."""
_VERDICT: Final = TypeAdapter(PageVerdict)


def make_app(desk: Desk, doors: Doors) -> ASGIApp:
    """The application: the endpoints behind the guard."""
    static = files("camseg.review.server") / "static"
    assets = {name: (static / name).read_bytes() for name in STATIC}

    def reviewer(request: Request) -> str:
        return f"reviewer {request.state.reviewer}"

    def item_of(request: Request) -> MaskItem | None:
        return desk.items.get(request.path_params["item"])

    async def enter(request: Request) -> Response:
        key = doors.enter(request.path_params["token"])
        if key is None:
            return PlainTextResponse("this address has been used, or never was one; start camseg review again\n", 403)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(doors.cookie, key, httponly=True, samesite="strict", path="/")
        return answer

    async def asset(request: Request) -> Response:
        name = request.path_params.get("name", PAGE)
        if name not in STATIC:
            return _missing()
        return Response(assets[name], media_type=STATIC[name])

    async def overview(_request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(desk.overview))

    async def following(request: Request) -> Response:
        skipped = frozenset(request.query_params.get("skipped", "").split(",")[:2000])

        return await _answer(lambda: JSONResponse(desk.next(reviewer(request), skipped)))

    async def facts(request: Request) -> Response:
        item = item_of(request)
        if item is None:
            return _missing()

        def work() -> Response:
            free = desk.lease(item, reviewer(request))
            return JSONResponse({**desk.facts(item), "leased": free})

        return await _answer(work)

    async def keep(request: Request) -> Response:
        item = item_of(request)
        return _missing() if item is None else JSONResponse({"leased": desk.lease(item, reviewer(request))})

    def picture(make: Callable[[Request, MaskItem], Response]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            item = item_of(request)
            return _missing() if item is None else await _answer(partial(make, request, item))

        return endpoint

    def image(request: Request, item: MaskItem) -> Response:
        window = request.query_params.get("window", "percentile")
        return Response(encode_picture(desk.picture(item, window)), media_type="image/jpeg")

    def mask(request: Request, item: MaskItem) -> Response:
        which = request.query_params.get("which")
        return _png(encode_mask(desk.mask(item, "machine" if which == "machine" else "counted")))

    def stored(kind: str) -> Callable[[Request, MaskItem], Response]:
        def endpoint(_request: Request, item: MaskItem) -> Response:
            path = item.file(kind)
            if path is None or not path.is_file():
                return _missing()
            return Response(path.read_bytes(), media_type="image/png")

        return endpoint

    async def solve(request: Request) -> Response:
        item = item_of(request)
        if item is None:
            return _missing()
        painted = await request.body()
        solver: Solver = "grabcut" if request.query_params.get("solver") == "grabcut" else "closed-form"
        return await _answer(lambda: Response(encode_mask(desk.solve(item, painted, solver)), media_type="image/png"))

    async def decide(request: Request) -> Response:
        item = item_of(request)
        if item is None:
            return _missing()
        etag = request.headers.get("if-match", "").strip('"')
        if not etag:
            return PlainTextResponse("expected If-Match with the mask's etag\n", 428)
        told, painted = await _verdict(request)
        verdict = _VERDICT.validate_python(told)

        def work() -> Response:
            taken = desk.take(item, verdict, etag, reviewer(request), painted)
            return JSONResponse({"decision": taken.line.decision, "iou": taken.line.iou, "etag": taken.etag})

        return await _answer(work)

    def guarded(endpoint: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def worded(request: Request) -> Response:
            try:
                return await endpoint(request)
            except (ConflictError, StaleMaskError) as error:
                return PlainTextResponse(f"{error}\n", 409)
            except ValidationError as error:
                first = error.errors()[0]
                return PlainTextResponse(f"{'.'.join(map(str, first['loc']))}: {first['msg']}\n", 422)
            except ClientDisconnect:
                return PlainTextResponse("the body was too large, or cut\n", 413)
            except (CamsegError, ValueError) as error:
                return PlainTextResponse(f"{error}\n", 422)
            except OSError as error:  # a full disk, rights that were taken away
                return PlainTextResponse(f"{error.filename or desk.folder}: {error.strerror or error}\n", 500)

        return worded

    routes: list[tuple[str, Callable[[Request], Any], str]] = [
        ("/", asset, "GET"),
        ("/open/{token}", enter, "GET"),
        ("/static/{name}", asset, "GET"),
        ("/api/overview", overview, "GET"),
        ("/api/next", following, "GET"),
        ("/api/items/{item}", facts, "GET"),
        ("/api/items/{item}/image", picture(image), "GET"),
        ("/api/items/{item}/mask", picture(mask), "GET"),
        ("/api/items/{item}/cam", picture(stored("cam")), "GET"),
        ("/api/items/{item}/trimap", picture(stored("trimap")), "GET"),
        ("/api/items/{item}/segments", picture(lambda _r, item: _png(encode_labels(desk.segments(item)))), "GET"),
        ("/api/items/{item}/lease", keep, "POST"),
        ("/api/items/{item}/solve", solve, "POST"),
        ("/api/items/{item}/decision", decide, "POST"),
    ]
    made = [Route(path, guarded(endpoint), methods=[method]) for path, endpoint, method in routes]
    return Guard(Starlette(routes=made), doors)


async def _answer(work: Callable[[], Response]) -> Response:
    return await run_in_threadpool(work)


async def _verdict(request: Request) -> tuple[Any, bytes | None]:
    """The JSON of a verdict, and the painted mask that came with it: a line of JSON, then the PNG."""
    head, _, painted = (await request.body()).partition(b"\n")
    return json.loads(head), painted or None


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png")


def _missing() -> Response:
    return PlainTextResponse("there is no such thing\n", 404)
