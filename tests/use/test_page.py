"""The page in a real browser, with a real server behind it."""

import io
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hands import ARGUMENTS, CHROMIUM, INKED, READ, SEVEN, choose, draw, drop, on_screen, photo
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from serving import Server, untrained

from mnist_pipeline.new_images import digest
from mnist_pipeline.use import spool

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install one or set CHROMIUM")
SENT = "fetch('version').then(() => 0)"  # once this is answered, all earlier requests are known
expect.set_options(timeout=30_000)
ANSWER = re.compile(r"^Read as \d \([\d.]+\s%\)\.$")
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests of this file."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Iterator[Open]:
    """Opens the page; no error, no violation of its policy and no foreign request in any test."""
    problems, contexts = [], []

    def note(bad: bool, what: str) -> None:
        if bad and not what.startswith("Failed to load resource"):  # a 400, or no server
            problems.append(what)

    def open_page(**options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda line: note(line.type == "error", line.text))
        page.on("pageerror", lambda error: note(True, str(error)))
        page.on("request", lambda sent: note(not sent.url.startswith(server.url), sent.url))
        page.clock.install()
        page.goto(server.url)
        page.evaluate("AbortSignal.timeout = () => undefined")  # a busy machine may take longer
        expect(page.locator("#version")).to_have_text("v1.0.0 · abababab")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


def expect_answer(page: Page, server: Server) -> None:
    """The page shows what the network says of the picture that the page shows."""
    expect(page.locator("#words")).to_have_text(ANSWER)
    percents, data, digit = page.evaluate(READ)
    pixels = np.array(data, np.uint8).reshape(28, 28, 4)[..., 0]
    assert pixels.max() == 255
    said = server.served.network.probabilities(pixels)
    np.testing.assert_allclose(percents, 100 * said, atol=0.051)
    assert math.isclose(sum(percents), 100, abs_tol=0.5)
    assert digit == str(said.argmax())


def expect_refusal(page: Page, words: str) -> None:
    """The page shows one sentence and no answer."""
    expect(page.locator("#words")).to_have_text(words)
    expect(page.locator("#digit")).to_be_empty()
    expect(page.locator("#bars span")).to_have_text([""] * 10)
    assert max(page.evaluate(READ)[1]) == 0


def test_drawing_with_the_mouse(open_page: Open, server: Server) -> None:
    """A drawing is answered: its digit, ten bars and the network's picture are one answer.

    The mouse does not drag what Ctrl+A has selected. A stroke along the rim stays a little inside,
    so that the network sees it: here, the bar of a 7, also beside a dot. Chromium's toBlob may take
    a second after a stroke: the page does without.
    """
    page = open_page()
    page.evaluate("HTMLCanvasElement.prototype.toBlob = () => {}")
    page.keyboard.press("Control+a")
    draw(page, [(0.2, 0.001), (0.8, 0.001), (0.4, 0.7)])
    draw(page, [(0.8, 0.7)])
    expect(page.locator("#labels")).to_be_enabled()  # the whole drawing is answered
    expect_answer(page, server)
    assert page.evaluate(INKED) > 0
    pixels = np.array(page.evaluate(READ)[1], np.uint8).reshape(28, 28, 4)[..., 0]
    assert max((row > 100).sum() for row in pixels) > 10
    assert (pixels > 100).sum() < 200  # not the dot alone, which would fill the field
    page.get_by_role("button", name="Clear").click()
    expect_refusal(page, "")


def test_drawing_with_a_finger_on_a_phone(open_page: Open, server: Server) -> None:
    """A finger draws instead of scrolling, and nothing is wider than 360 pixels.

    Nor than 320, where somebody has set letters of twice the size. A second finger, perhaps a palm,
    draws nothing and does not bend the first one's stroke.
    """
    page = open_page(**PHONE)
    touch = page.context.new_cdp_session(page)
    for index, (x, y) in enumerate(on_screen(page, SEVEN)):
        kind = "touchMove" if index else "touchStart"
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect_answer(page, server)
    assert page.evaluate(INKED) > 0
    page.keyboard.press("Escape")
    for kind, fingers in (
        ("touchStart", [(0.3, 0.2)]),
        ("touchStart", [(0.3, 0.2), (0.8, 0.2)]),
        ("touchMove", [(0.3, 0.8), (0.8, 0.3)]),
        ("touchEnd", []),
    ):
        points = [{"x": x, "y": y, "id": at} for at, (x, y) in enumerate(on_screen(page, fingers))]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    expect(page.locator("#words")).to_have_text(ANSWER)
    assert page.evaluate(INKED) == 40  # one straight line
    assert page.evaluate("[scrollY, document.documentElement.scrollWidth]") == [0, 360]
    page.set_viewport_size({"width": 320, "height": 640})
    page.evaluate("document.documentElement.style.fontSize = '32px'")
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_the_pen_draws_beside_a_palm(open_page: Open, server: Server) -> None:
    """Even if the palm was there first."""
    page = open_page(viewport={"width": 800, "height": 1000}, has_touch=True)
    devices = page.context.new_cdp_session(page)
    ((x, y),) = on_screen(page, [(0.9, 0.9)])
    palm = {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]}
    devices.send("Input.dispatchTouchEvent", palm)
    pen = {"pointerType": "pen", "button": "left", "buttons": 1, "clickCount": 1}
    for index, (x, y) in enumerate(on_screen(page, SEVEN)):
        kind = "mouseMoved" if index else "mousePressed"
        devices.send("Input.dispatchMouseEvent", pen | {"type": kind, "x": x, "y": y})
    devices.send("Input.dispatchMouseEvent", pen | {"type": "mouseReleased", "x": x, "y": y})
    expect_answer(page, server)
    assert page.evaluate(INKED) > 0


def test_the_paper_fits_the_window(open_page: Open) -> None:
    """Also on a laptop at 200 %; the pen's mark is where the pen is, at the lower edge too.

    In forced colours the paper has an edge, as the page may be as white as it.
    """
    page = open_page(forced_colors="active")
    for width, height in ((320, 480), (640, 400), (1280, 640)):
        page.set_viewport_size({"width": width, "height": height})
        sheet, paper = (page.locator(name).bounding_box() for name in ("#sheet", "#paper"))
        assert sheet is not None
        assert sheet == paper
        assert sheet["height"] <= 0.65 * height
    edge = {"x": sheet["x"] - 2, "y": sheet["y"] + 50, "width": 4, "height": 1}
    with Image.open(io.BytesIO(page.screenshot(clip=edge))) as picture:
        assert picture.convert("L").getextrema()[0] < 100


def test_drawing_with_the_keyboard_alone(open_page: Open, server: Server) -> None:
    """Tab, Space and arrows draw; a lifted pen leaves no ink; Escape clears."""
    page = open_page()
    line = [*["ArrowUp"] * 9, "Space", *["ArrowDown"] * 14, "Space"]
    for key in ["Tab", *line, "ArrowRight", *["ArrowUp"] * 5]:
        page.keyboard.press(key)
    expect(page.locator("#paper")).to_be_focused()
    expect(page.locator("#pen")).to_be_visible()
    expect_answer(page, server)
    assert page.evaluate(INKED) == 40  # a straight line
    page.keyboard.press("Escape")
    expect_refusal(page, "")


def test_a_photo_chosen_or_dropped(open_page: Open, server: Server) -> None:
    """A picture file is answered; for any other file, only the server's reason is shown."""
    page = open_page()
    choose(page, photo("white", "black"))
    expect_answer(page, server)
    choose(page, b"seven", "text/plain")
    expect_refusal(page, "Expected a picture such as JPEG or PNG, found something else.")
    drop(page, photo("black", "white"))
    expect_answer(page, server)


def test_a_correction_is_kept(open_page: Open, tmp_path: Path, monkeypatch: Any) -> None:
    """What the network saw, with the label that was chosen; the last choice counts.

    A reply that comes late is not shown: it is about a drawing that is gone.
    """
    monkeypatch.chdir(tmp_path)
    page = open_page()
    expect(page.locator("#labels")).to_be_hidden()
    draw(page, SEVEN)
    expect(page.locator("#words")).to_have_text(ANSWER)
    for label in ("3", "7"):
        page.locator("#labels").get_by_role("button", name=label).click()
        text = f"Kept as {label}, for somebody to look at."
        expect(page.locator("#kept")).to_have_text(text)
    (kept,) = spool.SPOOL.iterdir()
    pixels = np.array(page.evaluate(READ)[1], np.uint8).reshape(28, 28, 4)[..., 0]
    assert kept.name == f"7-{digest(pixels)}.png"
    assert (np.asarray(Image.open(kept)) == pixels).all()
    held = list[Route]()
    page.route("**/corrections/*", lambda route: held.insert(0, route))
    page.locator("#labels").get_by_role("button", name="3").click()
    wait_until(page, lambda: held)
    page.keyboard.press("Escape")
    answer_late(page, held[0])
    expect(page.locator("#kept")).to_be_empty()


def wait_until(page: Page, true: Callable[[], object]) -> None:
    """Let the page go on until something is true; fails after ten seconds."""
    for _ in range(1000):
        if true():
            return
        page.wait_for_timeout(10)
    raise AssertionError("the page has sent nothing")


def answer_late(page: Page, route: Route) -> None:
    """An answer that the page hears, but need not show."""
    with page.expect_response(route.request.url) as response:
        route.fulfill(status=400, json={"detail": "late"})
    response.value.finished()
    page.evaluate("new Promise((done) => setTimeout(done))")


def test_one_picture_at_a_time(open_page: Open, server: Server) -> None:
    """While the server thinks, a newer drawing waits; then it alone is answered and shown.

    An answer that comes after Escape is dropped, and the next drawing is answered.
    """
    page, held = open_page(), list[Route]()
    page.route("**/predict", lambda route: held.insert(0, route))
    draw(page, SEVEN)
    wait_until(page, lambda: held)
    draw(page, [(0.4, 0.5), (0.7, 0.5)])
    page.clock.run_for(1000)
    assert len(held) == 1
    answer_late(page, held[0])
    wait_until(page, lambda: len(held) == 2)
    expect_refusal(page, "")
    held[0].continue_()
    expect_answer(page, server)
    draw(page, SEVEN)
    wait_until(page, lambda: len(held) == 3)
    page.keyboard.press("Escape")
    answer_late(page, held[0])
    expect_refusal(page, "")
    page.unroute("**/predict")
    page.evaluate(SENT)
    assert len(held) == 3
    draw(page, SEVEN)
    expect_answer(page, server)


def test_a_file_that_is_read_late_is_dropped(open_page: Open, server: Server) -> None:
    """A drawing made meanwhile stays the one to be corrected; a cleared page stays clear."""
    page, asked = open_page(), list[str]()
    reading = "File.prototype.arrayBuffer = () => new Promise((done) => (window.read = done))"
    page.evaluate(f"() => {{ {reading} }}")
    choose(page, photo("white", "black"))
    draw(page, SEVEN)
    expect_answer(page, server)
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("read(new ArrayBuffer(9))")
    choose(page, photo("white", "black"))
    page.keyboard.press("Escape")
    page.evaluate("read(new ArrayBuffer(9))")
    page.evaluate(SENT)
    assert f"{server.url}/predict" not in asked


def test_clearing_in_mid_stroke(open_page: Open) -> None:
    """The rest of the stroke leaves no ink, and nothing is sent."""
    page, sent = open_page(), list[Route]()
    page.route("**/predict", lambda route: sent.insert(0, route))
    page.clock.pause_at("2100-01-01")  # so that half a stroke is not sent on a busy machine
    points = list(on_screen(page, SEVEN))
    page.mouse.move(*points[0])
    page.mouse.down()
    page.keyboard.press("Escape")
    for point in points:
        page.mouse.move(*point)
    page.mouse.up()
    page.clock.run_for(1000)
    assert page.evaluate(INKED) == 0
    assert not sent
    expect_refusal(page, "")


def test_no_correction_of_half_a_drawing(open_page: Open) -> None:
    """The buttons are there when the whole drawing is answered, not before."""
    page, held = open_page(), list[Route]()
    page.route("**/predict", lambda route: held.insert(0, route))
    page.clock.pause_at("2100-01-01")  # so that half a stroke is not sent
    draw(page, SEVEN)
    wait_until(page, lambda: held)
    page.mouse.down()
    held[0].continue_()
    expect(page.locator("#words")).to_have_text(ANSWER)
    expect(page.locator("#labels")).to_be_hidden()
    page.unroute("**/predict")
    page.mouse.up()
    expect(page.locator("#labels")).to_be_visible()


def test_another_version_answers_anew(
    open_page: Open, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it came into service while the old one was being asked.

    It is named within seconds, and so is what keeps a version out.
    """
    page, held = open_page(), list[Route]()
    page.route("**/predict", lambda route: held.insert(0, route))
    choose(page, photo("white", "black"))
    wait_until(page, lambda: held)
    monkeypatch.setattr(server.served, "network", untrained("v2.0.0"))
    monkeypatch.setattr(server.served, "problem", "no network to be had")
    page.clock.run_for(5000)
    page.evaluate(SENT)
    answer_late(page, held[0])
    page.clock.run_for(5000)
    wait_until(page, lambda: len(held) == 2)
    held[0].continue_()
    expect_answer(page, server)
    expect(page.locator("#version")).to_have_text("v2.0.0 · abababab")
    expect(page.locator("#problem")).to_have_text("No network to be had.")


def test_the_server_is_gone(open_page: Open, server: Server) -> None:
    """The page says so, until the server is back and answers what it missed."""
    page, gone = open_page(), "The server does not answer."
    server.stop()
    choose(page, photo("white", "black"))
    expect(page.locator("#gone")).to_have_text(gone)
    expect_refusal(page, "")
    server.start()
    page.clock.run_for(5000)
    expect(page.locator("#gone")).to_be_empty()
    expect_answer(page, server)
