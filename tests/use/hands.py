"""What a visitor of the page does: strokes of a mouse, photos, and reading."""

import io
import os
import shutil

from PIL import Image, ImageDraw
from playwright.sync_api import FilePayload, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
ARGUMENTS = ["--no-proxy-server", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
Points = list[tuple[float, float]]  # in fractions of the paper's side
SEVEN: Points = [(0.3, 0.2), (0.7, 0.2), (0.45, 0.8)]
# The percents, the picture that the network sees, and the digit:
READ = """() => [
  [...document.querySelectorAll("#bars span")].map((span) => parseFloat(span.textContent)),
  [...document.querySelector("#seen").getContext("2d").getImageData(0, 0, 28, 28).data],
  document.querySelector("#digit").textContent]"""
# How many pixels of the paper's middle row are black:
INKED = """() => {
  const row = document.querySelector("#paper").getContext("2d").getImageData(0, 280, 560, 1).data;
  return row.filter((value, index) => index % 4 === 0 && value === 0).length;
}"""
DROP = """(bytes) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "digit.png", { type: "image/png" }));
  return data;
}"""


def draw(page: Page, points: Points) -> None:
    """A stroke with the mouse through points."""
    for index, (x, y) in enumerate(on_screen(page, points)):
        page.mouse.move(x, y)
        if index == 0:
            page.mouse.down()
    page.mouse.up()


def on_screen(page: Page, points: Points) -> Points:
    """Where points of the paper are in the window."""
    box = page.locator("#paper").bounding_box()
    assert box is not None
    return [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in points]


def photo(paper: str, ink: str) -> bytes:
    """A PNG file with a digit."""
    picture = Image.new("L", (300, 400), paper)
    ImageDraw.Draw(picture).line([(90, 90), (210, 90), (140, 310)], ink, 22, "curve")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def drop(page: Page, content: bytes) -> None:
    """A file dropped on the page."""
    data = page.evaluate_handle(DROP, list(content))
    page.dispatch_event("body", "drop", {"dataTransfer": data})


def choose(page: Page, content: bytes, kind: str = "image/png") -> None:
    """A file chosen by the page's button."""
    file: FilePayload = {"name": "digit", "mimeType": kind, "buffer": content}
    page.get_by_label("choose a photo").set_input_files(file)
