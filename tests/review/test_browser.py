"""The page in a real browser: ``make test-browser`` sets one up; without playwright and Chromium it is skipped."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from camseg.data.images import read_mask
from camseg.runs.corrections import read_corrections

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright; make test-browser installs it")
CHROMIUM = os.environ.get("CAMSEG_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; make test-browser installs it"),
    pytest.mark.filterwarnings("ignore"),  # the browser driver's own
]


class Server:
    """``camseg review`` as a process of its own."""

    def __init__(self, out, *more):
        command = [sys.executable, "-m", "camseg", "review", str(out), "--port", "0", "--no-browser", *more]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addresses = []
        for line in self.process.stderr:
            if found := re.search(r"http://\S+", line):
                self.addresses.append(found[0])
            if "Ctrl-C" in line:
                break

    def end(self, how=signal.SIGINT):
        self.process.send_signal(how)
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture
def serve():
    started = []

    def start(out, *more):
        started.append(Server(out, *more))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser):
    """A page of a browser of its own; what it complains of fails the test."""
    contexts, complaints = [], []

    def go(address, **settings):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings}))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        until(lambda: page.inner_text("#name") != "camseg review")
        until(lambda: page.is_enabled("#accept") or page.inner_text("#name") == "Done")
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []


def until(holds, seconds=10.0):
    """Wait without evaluating text in the page, which its policy forbids."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def decided(page, work):
    """Do what decides on a mask, and wait for the next one."""
    name = page.inner_text("#name")
    work()
    until(lambda: page.inner_text("#name") != name)
    until(lambda: page.is_enabled("#accept") or page.inner_text("#name") == "Done")


def pixels(page):
    return int(re.search(r"(\d+) pixels", page.inner_text("#size"))[1])


def middle(page):
    box = page.locator("#canvas").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()


@pytest.mark.parametrize("by", ["keyboard", "mouse"])
def test_decisions(make_out, serve, open_page, tmp_path, by):
    out = make_out()
    page = open_page(serve(out).addresses[0])
    keys = {"accept": "Enter", "reject": "x", "empty": "e"}
    for what in ("accept", "reject", "empty"):
        press = (lambda key=keys[what]: page.keyboard.press(key)) if by == "keyboard" else None
        decided(page, press or (lambda what=what: page.click(f"#{what}")))
    first = page.inner_text("#name")
    decided(page, lambda: page.keyboard.press("ArrowRight") if by == "keyboard" else page.click("#next"))
    decided(page, lambda: page.keyboard.press("ArrowLeft") if by == "keyboard" else page.click("#previous"))
    assert page.inner_text("#name") == first
    lines = read_corrections(out)
    assert [line.decision for line in lines] == ["accepted", "rejected", "empty"]
    assert all(0 < line.seconds < 20 for line in lines)
    assert "3 of 6" in page.inner_text("#counts")


def test_the_level_by_keys_and_by_the_slider(make_out, serve, open_page, tmp_path):
    out = make_out()
    page = open_page(serve(out).addresses[0])
    before = pixels(page)
    for _ in range(5):
        page.keyboard.press("}")
    less = pixels(page)
    assert less < before
    page.keyboard.press("z")
    assert less <= pixels(page) <= before
    page.keyboard.press("Shift+Z")
    assert pixels(page) == less
    began = time.monotonic()
    page.locator("#level").fill("20")
    more = pixels(page)
    assert more > before
    name = page.inner_text("#name")
    decided(page, lambda: page.keyboard.press("Enter"))
    assert time.monotonic() - began < 3
    (line,) = read_corrections(out)
    assert (line.input, line.decision, line.extra["level"]) == (name, "edited", 20)
    assert int(read_mask(out / line.corrected).sum()) == more


def test_brush_eraser_pieces_superpixels_and_solving(make_out, serve, open_page):
    page = open_page(serve(make_out()).addresses[0])
    x, y = middle(page)
    counts = [pixels(page)]

    def changed(more):
        until(lambda: pixels(page) != counts[-1])
        counts.append(pixels(page))
        assert (counts[-1] > counts[-2]) is more

    page.locator("#brush").fill("4")
    page.keyboard.press("b")
    drag(page, (x - 300, y + 250), (x - 100, y + 250))
    changed(True)
    page.keyboard.press("d")
    drag(page, (x - 300, y + 250), (x - 200, y + 250))
    changed(False)
    page.keyboard.press("c")
    page.mouse.click(x - 100, y + 250)
    changed(False)
    page.mouse.click(x + 2, y - 30)
    changed(False)
    page.mouse.click(x + 2, y - 30)
    changed(True)
    page.keyboard.press("s")
    until(lambda: page.is_checked('input[value="segments"]'))
    time.sleep(2)
    page.mouse.click(x + 350, y + 300)
    changed(True)
    page.keyboard.press("r")
    until(lambda: page.inner_text("#status").startswith("re-solved"), 60)
    page.keyboard.press("b")
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press(".")
    assert "cross at" in page.inner_text("#status")
    for _ in range(12):
        page.keyboard.press("z")
    assert pixels(page) == counts[0]
    size = page.input_value("#brush")
    page.mouse.move(x, y)
    page.mouse.wheel(0, -100)
    until(lambda: page.input_value("#brush") != size)


def test_masks_passed_over_come_again_and_those_that_cannot_be_shown_do_not(
    make_out, serve, open_page, cut_photo, tmp_path
):
    out = make_out("a", "b", "c")
    cut_photo(tmp_path / "images/b.png")
    page = open_page(serve(out).addresses[0])
    assert page.inner_text("#name") == "c.png"
    decided(page, lambda: page.keyboard.press("ArrowRight"))
    assert page.inner_text("#name") == "a.png"
    assert "b.png cannot be shown" in page.inner_text("#status")
    decided(page, lambda: page.keyboard.press("ArrowRight"))
    assert page.inner_text("#name") == "c.png"
    assert "passed over" in page.inner_text("#status")
    for _ in range(2):
        decided(page, lambda: page.keyboard.press("Enter"))
    assert page.inner_text("#name") == "Done"
    until(lambda: "1 masks cannot be shown" in page.inner_text("#status"))


def test_the_machines_mask_takes_the_place_of_a_wrong_decision(make_out, serve, open_page):
    out = make_out()
    page = open_page(serve(out).addresses[0])
    name, before = page.inner_text("#name"), pixels(page)
    decided(page, lambda: page.keyboard.press("e"))
    decided(page, lambda: page.keyboard.press("ArrowLeft"))
    assert pixels(page) == 0
    page.keyboard.press("m")
    until(lambda: pixels(page) == before)
    decided(page, lambda: page.keyboard.press("Enter"))
    assert [(line.input, line.decision) for line in read_corrections(out)] == [(name, "empty"), (name, "accepted")]


def test_a_stroke_that_is_held_still_does_not_reach_the_next_mask(make_out, serve, open_page):
    out = make_out()
    page = open_page(serve(out).addresses[0])
    x, y = middle(page)
    page.keyboard.press("b")
    page.mouse.move(x - 200, y + 200)
    page.mouse.down()
    decided(page, lambda: page.keyboard.press("x"))
    before = pixels(page)
    page.mouse.move(x + 200, y + 200)
    page.mouse.up()
    assert pixels(page) == before
    assert page.is_disabled("#undo")


def test_two_reviewers_at_once(make_out, serve, open_page):
    out = make_out()
    server = serve(out, "--reviewers", "2")
    one, other = (open_page(address) for address in server.addresses)
    seen = set()
    for _ in range(3):
        for page in (one, other):
            name = page.inner_text("#name")
            if name != "Done":
                assert name not in seen
                seen.add(name)
                decided(page, lambda page=page: page.keyboard.press("Enter"))
    assert len(seen) == len({line.input for line in read_corrections(out)}) == 6


def test_a_kill_loses_nothing_that_was_acknowledged(make_out, serve, open_page):
    out = make_out()
    server = serve(out)
    page = open_page(server.addresses[0])
    decided(page, lambda: page.keyboard.press("Enter"))
    page.keyboard.press("}")
    decided(page, lambda: page.keyboard.press("Enter"))
    server.end(signal.SIGKILL)
    page.keyboard.press("Enter")
    until(lambda: "bad" in (page.get_attribute("#status", "class") or ""))
    lines = read_corrections(out)
    assert [line.decision for line in lines] == ["accepted", "edited"]
    assert read_mask(out / lines[1].corrected).any()
    again = open_page(serve(out).addresses[0])
    assert again.inner_text("#counts").startswith("2 of 6")
    assert again.inner_text("#name") not in {line.input for line in lines}


def test_ten_thousand_masks_open_within_a_second(make_out, serve, open_page):
    out = make_out("a")
    folder = out.parent
    line = json.loads((out / "manifest.jsonl").read_text())
    contents = {kind: (folder / kind / "a.png").read_bytes() for kind in ("images", "out/masks", "out/cams")}
    lines = []
    for n in range(10_000):
        name = f"{n:05}"
        for kind, content in contents.items():
            (folder / kind / f"{name}.png").write_bytes(content)
        files = {"mask": f"masks/{name}.png", "cam": f"cams/{name}.png"}
        lines.append(json.dumps(line | {"input": f"{name}.png", "name": name, "files": files, "quality": n / 1e4}))
    (out / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    server = serve(out)
    page = open_page(server.addresses[0])
    assert page.evaluate("() => performance.now()") < 1000
    began = time.monotonic()
    decided(page, lambda: page.keyboard.press("Enter"))
    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize(
    ("width", "height", "scheme"), [(360, 740, "dark"), (1280, 800, "light"), (3840, 2160, "dark")]
)
def test_it_fits_every_screen_and_every_control_has_a_name(make_out, serve, open_page, width, height, scheme):
    page = open_page(serve(make_out()).addresses[0], viewport={"width": width, "height": height}, color_scheme=scheme)
    for control in page.locator("button, select, input").all():
        if control.is_visible():
            box = control.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            described = control.inner_text() or control.evaluate("one => one.labels[0]?.textContent ?? ''")
            assert described.strip()
    # By the tab key alone every button is reached, and one sees where one is.
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id"))
    wanted = {"accept", "reject", "empty", "next", "level", "brush", "solve", "annotator", "canvas"}
    assert wanted <= reached
    page.focus("#accept")
    page.keyboard.press("Tab")
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("Escape")
    assert page.is_hidden("#help")


def test_touch(make_out, serve, open_page):
    page = open_page(
        serve(make_out()).addresses[0], viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True
    )
    page.tap('label:has(input[value="brush"])')
    before = pixels(page)
    box = page.locator("#canvas").bounding_box()
    page.touchscreen.tap(box["x"] + 30, box["y"] + box["height"] / 2)
    until(lambda: pixels(page) > before)
    decided(page, lambda: page.tap("#accept"))


def test_the_report_sorts_and_filters(make_out, open_page, browser, tmp_path):
    from camseg.review.report import report_folder

    report_folder(make_out(), tmp_path / "report.html", masks=tmp_path / "truth")
    page = browser.new_context().new_page()
    page.goto((tmp_path / "report.html").as_uri())

    def names():
        return page.locator(".card:not([hidden]) h3").all_inner_texts()

    assert names() == [f"{name}.png" for name in ("f", "e", "d", "sub/c", "b", "a")]
    page.select_option("#order", "-quality")
    assert names()[0] == "a.png"
    page.select_option("#reason", "a low class score")
    assert sorted(names()) == ["b.png", "d.png", "f.png"]
    page.fill("#text", "d.")
    assert names() == ["d.png"]
    assert page.inner_text("#count") == "1 shown"
    assert np.isfinite(float(page.get_attribute(".card", "data-quality")))
    page.context.close()
