"""The page's server: who may ask, what is given out, and that nothing that was acknowledged is lost."""

import errno
import io
import json
import re

import numpy as np
import pytest
from PIL import Image as PilImage

from camseg.base.errors import InputError, OutputError
from camseg.data.images import read_mask, write_mask
from camseg.review.settings import ReviewSettings
from camseg.runs.corrections import read_corrections

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from starlette.testclient import TestClient

from camseg.review.server import guard
from camseg.review.server.app import STATIC, make_app
from camseg.review.server.desk import Desk
from camseg.review.server.guard import Doors

PORT = 8765
HOME = f"http://127.0.0.1:{PORT}"
WRITE = {"origin": HOME, "x-camseg-review": "1"}


@pytest.fixture
def desk(make_out):
    return Desk(make_out(), ReviewSettings(annotator="Ann"))


@pytest.fixture
def doors():
    return Doors(port=PORT)


@pytest.fixture
def enter(desk, doors):
    """A reviewer's browser that has opened the page."""

    def go(reviewer=1):
        client = TestClient(make_app(desk, doors), base_url=HOME, follow_redirects=False)
        assert client.get(doors.invite(reviewer)).status_code == 303
        return client

    return go


def png(mask):
    buffer = io.BytesIO()
    PilImage.fromarray(np.dstack([mask.astype(np.uint8) * 255] * 3)).save(buffer, "PNG")
    return buffer.getvalue()


def say(client, facts, decision, mask=None, etag=None, **more):
    body = (
        json.dumps({"decision": decision, "seconds": 2.5, **more}).encode()
        + b"\n"
        + (b"" if mask is None else png(mask))
    )
    headers = {**WRITE, "if-match": f'"{etag or facts["etag"]}"'}
    return client.post(f"/api/items/{facts['id']}/decision", content=body, headers=headers)


# What a reviewer does


def test_from_the_first_mask_to_the_last(enter, desk, tmp_path):
    client = enter()
    assert client.get("/api/overview").json()["total"] == 6
    first = client.get("/api/next").json()
    assert first["name"] == "f.png"
    assert (first["width"], first["height"], first["cam"], first["trimap"]) == (40, 32, True, False)
    shown = PilImage.open(io.BytesIO(client.get(f"/api/items/{first['id']}/mask").content))
    assert np.array_equal(np.array(shown) > 127, read_mask(tmp_path / "out/masks/f.png"))
    truth = read_mask(tmp_path / "truth/f.png")
    taken = say(client, first, "edited", truth, actions={"brush": 2}, level=99).json()
    assert taken["decision"] == "edited"
    assert np.array_equal(read_mask(tmp_path / "out/corrected/f.png"), truth)
    decisions = ["accepted", "rejected", "empty", "accepted"]
    for decision in decisions:
        facts = client.get("/api/next").json()
        assert say(client, facts, decision).status_code == 200
    lines = read_corrections(tmp_path / "out")
    assert [line.decision for line in lines] == ["edited", *decisions]
    assert {(line.tool, line.annotator, line.seconds) for line in lines} == {("review", "Ann", 2.5)}
    assert lines[0].extra["actions"] == {"brush": 2}
    assert (lines[0].extra["level"], lines[0].extra["order"]) == (99, "worst")
    assert "drawn_at_random" in lines[0].extra
    # What nobody has decided on yet is all that a new start shows.
    again = Desk(tmp_path / "out", ReviewSettings())
    assert again.overview()["done"] == 5
    assert again.next("x")["name"] == client.get("/api/next").json()["name"]
    assert desk.summary()["decisions"]["all"]["median_seconds"] == 2.5


def test_an_edit_that_changes_nothing_is_an_acceptance(enter, tmp_path):
    client = enter()
    facts = client.get("/api/next").json()
    mask = read_mask(tmp_path / "out/masks/f.png")
    assert say(client, facts, "edited", mask).json()["decision"] == "accepted"
    facts = client.get(f"/api/items/{facts['id']}").json()
    assert say(client, facts, "edited", np.zeros_like(mask)).json()["decision"] == "empty"


def test_the_machines_mask_can_be_had_again(enter, tmp_path):
    client = enter()
    facts = client.get("/api/next").json()
    say(client, facts, "empty")
    facts = client.get(f"/api/items/{facts['id']}").json()

    def shown(which):
        content = client.get(f"/api/items/{facts['id']}/mask{which}").content
        return np.array(PilImage.open(io.BytesIO(content))) > 127

    machine = read_mask(tmp_path / "out/masks/f.png")
    assert not shown("").any()
    assert np.array_equal(shown("?which=machine"), machine)
    assert say(client, facts, "edited", shown("?which=machine")).json()["decision"] == "accepted"
    assert np.array_equal(shown(""), machine)


def test_masks_that_cannot_be_shown_do_not_hold_up_the_others(enter, desk, cut_photo, tmp_path):
    (tmp_path / "out/masks/f.png").unlink()  # the first ones in this order
    (tmp_path / "out/masks/e.png").write_bytes(b"junk")
    write_mask(tmp_path / "out/masks/d.png", np.ones((3, 3), bool))
    (tmp_path / "images/sub/c.png").write_bytes(b"junk")
    cut_photo(tmp_path / "images/b.png")
    client = enter()
    facts = client.get("/api/next").json()
    assert facts["name"] == "b.png"
    assert client.get(f"/api/items/{facts['id']}/image").status_code == 422
    assert client.get("/api/next").json()["name"] == "a.png"
    (remark,) = client.get("/api/overview").json()["remarks"]
    assert remark.startswith("5 masks cannot be shown: ")
    assert all(name in remark for name in ("f.png", "e.png", "d.png", "c.png", "b.png"))


def test_pictures_and_strokes(enter):
    client = enter()
    facts = client.get("/api/next").json()
    base = f"/api/items/{facts['id']}"
    for kind, size in (("image", (40, 32)), ("cam", (40, 32)), ("segments", (40, 32))):
        answer = client.get(f"{base}/{kind}")
        assert answer.headers["content-type"] in ("image/png", "image/jpeg")
        assert PilImage.open(io.BytesIO(answer.content)).size == size
    assert client.get(f"{base}/trimap").status_code == 404
    assert client.get(f"{base}/image?window=1,2,3").status_code == 422
    mask = np.zeros((32, 40), bool)
    mask[9:19, 11:25] = True
    answer = client.post(f"{base}/solve", content=png(mask), headers=WRITE)
    assert PilImage.open(io.BytesIO(answer.content)).size == (40, 32)


def test_who_comes_second_is_told(enter, tmp_path):
    one, other = enter(1), enter(2)
    first, second = one.get("/api/next").json(), other.get("/api/next").json()
    assert first["id"] != second["id"]
    seen = other.get(f"/api/items/{first['id']}").json()
    assert seen["leased"] is False
    assert say(one, first, "rejected").status_code == 200
    assert say(other, seen, "accepted").status_code == 409
    assert len(read_corrections(tmp_path / "out")) == 1
    # The machine made another mask meanwhile.
    write_mask(tmp_path / "out" / "masks" / f"{second['name']}", np.ones((32, 40), bool))
    assert say(other, second, "accepted").status_code == 409
    assert say(one, first, "accepted", etag="0" * 32).status_code == 409


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"decision": "maybe"}, 422),
        ({"seconds": -1.0}, 422),
        ({"seconds": 1e9}, 422),
        ({"seconds": "NaN"}, 422),
        ({"annotator": "x" * 1000}, 422),
        ({"level": 256}, 422),
        ({"file": "../../etc"}, 422),
    ],
)
def test_verdicts_that_say_nothing(enter, tmp_path, change, status):
    client = enter()
    facts = client.get("/api/next").json()
    body = {"decision": "accepted", "seconds": 1.0} | change
    answer = client.post(
        f"/api/items/{facts['id']}/decision",
        content=json.dumps(body),
        headers={**WRITE, "if-match": facts["etag"]},
    )
    assert answer.status_code == status
    assert read_corrections(tmp_path / "out") == []


def test_masks_that_are_none(enter, tmp_path):
    client = enter()
    facts = client.get("/api/next").json()
    headers = {**WRITE, "if-match": facts["etag"]}
    head = b'{"decision": "edited", "seconds": 1}\n'
    bomb = png(np.zeros((1, 1), bool)).replace(b"IHDR\0\0\0\1\0\0\0\1", b"IHDR\0\1\0\0\0\1\0\0")
    for body in (head, head + b"GIF89a", head + png(np.ones((3, 3), bool)), head + bomb, b"", b"\xff\n"):
        answer = client.post(f"/api/items/{facts['id']}/decision", content=body, headers=headers)
        assert answer.status_code == 422, body
    assert read_corrections(tmp_path / "out") == []
    assert client.post(f"/api/items/{facts['id']}/solve", content=b"no", headers=WRITE).status_code == 422


# Who may ask


def test_an_address_opens_the_page_once(desk, doors):
    app = make_app(desk, doors)
    client = TestClient(app, base_url=HOME, follow_redirects=False)
    assert client.get("/").status_code == 403
    path = doors.invite(1)
    answer = client.get(path)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert re.search("samesite=strict", cookie, re.I)
    assert client.get("/").status_code == 200
    stranger = TestClient(app, base_url=HOME, follow_redirects=False)
    assert stranger.get(path).status_code == 403
    assert stranger.get("/open/guess").status_code == 403
    assert stranger.get("/api/overview").status_code == 403
    stranger.cookies.set(doors.cookie, "guess")
    assert stranger.get("/api/overview").status_code == 403


@pytest.mark.parametrize("other", ['{"a": 1}', "naïve=ü", "plain", "=", 'x="', "a[]=1,2", "$Version=1"])
def test_other_programs_cookies_lock_nobody_out(desk, doors, other):
    client = TestClient(make_app(desk, doors), base_url=HOME, follow_redirects=False)
    own = client.get(doors.invite(1)).headers["set-cookie"].partition(";")[0]
    client.cookies.clear()
    for cookies in (f"{other}; {own}", f"{own}; {other}"):
        assert client.get("/api/overview", headers={"cookie": cookies.encode()}).status_code == 200
    odd = f"{other}; {doors.cookie}=\xff".encode("latin-1")
    assert client.get("/api/overview", headers={"cookie": odd}).status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1:1", "127.0.0.1", "evil.example:8765", "127.0.0.1:8765.evil"]
)
def test_another_name_for_this_machine_leads_nowhere(enter, doors, host):
    client = enter()
    assert client.get("/", headers={"host": host}).status_code == 421
    assert client.get(doors.invite(1), headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": HOME},
        {"x-camseg-review": "1"},
        {**WRITE, "origin": "http://evil.example"},
        {**WRITE, "origin": "null"},
        {**WRITE, "origin": f"http://localhost:{PORT}"},
        {**WRITE, "origin": f"https://127.0.0.1:{PORT}"},
    ],
)
def test_other_sites_cannot_write(enter, tmp_path, headers):
    client = enter()
    facts = client.get("/api/next").json()
    answer = client.post(
        f"/api/items/{facts['id']}/decision",
        content='{"decision": "accepted", "seconds": 1}',
        headers={**headers, "if-match": facts["etag"]},
    )
    assert answer.status_code == 403
    assert read_corrections(tmp_path / "out") == []


def test_every_answer_says_what_browsers_may_do(enter):
    client = enter()
    for path in ("/", "/static/main.js", "/api/next", "/nowhere", "/api/items/0"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert client.request(method, "/api/next").status_code == 405
    assert client.get("/api/items/0/decision").status_code in (404, 405)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../desk.py",
        "/static/%2e%2e/desk.py",
        "/static/..%2fdesk.py",
        "/static//etc/passwd",
        "/api/items/..%2f..%2fa/mask",
        "/api/items/a.png/mask",
        "/api/items/%00/mask",
    ],
)
def test_paths_lead_nowhere(enter, path):
    assert enter().get(path).status_code == 404


def test_bodies_are_limited(enter, monkeypatch, tmp_path):
    monkeypatch.setattr(guard, "LARGEST_BODY", 1000)
    client = enter()
    facts = client.get("/api/next").json()
    path = f"/api/items/{facts['id']}/solve"
    assert client.post(path, content=b"x" * 1001, headers=WRITE).status_code == 413
    chunks = (b"x" * 100 for _ in range(20))
    assert client.post(path, content=chunks, headers=WRITE).status_code == 411
    lied = client.post(path, content=b"x" * 3000, headers={**WRITE, "content-length": "10"})
    assert lied.status_code in (400, 413, 422)


def test_the_page_has_all_that_it_names(enter):
    client = enter()
    page = client.get("/").text
    for source in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        assert client.get(source).status_code == 200
    for name in STATIC:
        for source in re.findall(r'from "(/static/[^"]+)"', client.get(f"/static/{name}").text):
            assert client.get(source).status_code == 200
    assert not re.search(r"https?://(?!www\.w3\.org)", "".join(client.get(f"/static/{name}").text for name in STATIC))
    ids = set(re.findall(r'id="([^"]+)"', page))
    script = client.get("/static/main.js").text
    assert set(re.findall(r'\$\("([^"]+)"\)', script)) <= ids


def test_a_folder_without_masks_or_a_taken_port(tmp_path):
    from camseg.review.server.serve import _listen

    with pytest.raises(InputError, match="no manifest of masks"):
        Desk(tmp_path, ReviewSettings())
    with _listen(0) as taken, pytest.raises(InputError, match="another --port"):
        _listen(taken.getsockname()[1])


def test_a_folder_that_cannot_be_written_to(make_out, enter, monkeypatch):
    facts = enter().get("/api/next").json()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "corrections.jsonl")

    with monkeypatch.context() as changed:
        changed.setattr("camseg.runs.corrections.append_lines", full)
        answer = say(enter(), facts, "accepted")
    assert (answer.status_code, answer.text) == (500, "corrections.jsonl: No space left on device\n")
    assert say(enter(), facts, "accepted").status_code == 200
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(OutputError, match=r"cannot write to .*: No space left on device; choose another folder"):
        Desk(make_out(), ReviewSettings())
