"""The loop: what people correct on the page, the next scheduled training learns."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import git
from playwright.sync_api import Page, expect, sync_playwright
from service import Service, digits_repository
from use.hands import ARGUMENTS, CHROMIUM, draw

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install one or set CHROMIUM"),
]
expect.set_options(timeout=30_000)
APP = "from mnist_pipeline.use import app; app.EVERY = 1; app.main()"
LIGHTNING = np.array([(0.66, 0.14), (0.4, 0.5), (0.62, 0.5), (0.36, 0.88)])  # which is a five
DRAWN = 12


@pytest.fixture
def service(tmp_path):
    """A server and a worker, and a repository whose model is in production."""
    service = Service(tmp_path, digits_repository(tmp_path / "repository", epochs=4))
    service.start_server()
    service.install()
    service.start_worker()
    assert service.wait(service.run("nightly"), "COMPLETED")["message"].startswith("main, ")
    yield service
    service.stop()


def lightning(number: int) -> list[tuple[float, float]]:
    """One of many ways to draw the lightning."""
    shift = np.random.default_rng(number).normal(0, 0.02, LIGHTNING.shape)
    return [(float(x), float(y)) for x, y in LIGHTNING + shift]


def read(page, number: int) -> str:
    """Draw one; returns the digit that the page reads."""
    page.keyboard.press("Escape")
    expect(page.locator("#digit")).to_be_empty()
    draw(page, lightning(number))
    expect(page.locator("#labels")).to_be_visible()  # hidden while half the drawing is answered
    return str(page.locator("#digit").text_content())


def merge(service: Service) -> None:
    """What a reviewer does with the pull request."""
    folder = service.folder / "reviewer"
    git(service.folder, "clone", "--quiet", str(service.origin), str(folder))
    (branch,) = git(folder, "branch", "--remotes", "--list", "origin/images/*").split()
    git(folder, "merge", "--no-edit", branch)
    git(folder, "push", "--quiet", "origin", "HEAD:main")


@pytest.fixture
def page(service) -> Iterator[Page]:
    """The page of an app that follows production; collect/daily collects its spool."""
    command = [sys.executable, "-uc", APP, "--repository", str(service.origin), "--stage", "prod"]
    with (
        subprocess.Popen(
            [*command, "--port", "0"],
            cwd=service.checkout,
            env=service.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as app,
        sync_playwright() as playwright,
    ):
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = browser.new_page()
            page.goto(app.stdout.readline().split()[-1])
            yield page
            browser.close()
        finally:
            app.kill()


def test_what_people_correct_is_learned(service, page):
    """Browser, correction, collect, merge, schedule, gate, new version; the page answers better."""
    expect(page.locator("#version")).to_contain_text("v1.0.0")
    before = []
    for number in range(DRAWN):
        before.append(read(page, number))
        page.locator("#labels").get_by_role("button", name="5").click()
        expect(page.locator("#kept")).to_have_text("Kept as 5, for somebody to look at.")
    assert before.count("5") < DRAWN / 2, before

    collected = service.wait(service.run("collect/daily"), "COMPLETED")["message"]
    assert f": {DRAWN}, from " in collected
    assert not list((service.checkout / "data/spool").iterdir())
    merge(service)
    said = service.wait(service.run("nightly"), "COMPLETED", seconds=600)["message"]
    assert said.startswith("main, mnist-cnn@v1.0.1: not significantly worse")
    assert "metrics/new.csv" in git(service.origin, "show", "--stat", "main")

    expect(page.locator("#version")).to_contain_text("v1.0.1", timeout=60_000)
    after = [read(page, number) for number in range(DRAWN)]
    assert after.count("5") > DRAWN / 2, (before, after)
