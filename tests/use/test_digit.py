"""One picture to MNIST's form: where the digit lies, what it loses, what is refused."""

import io
import struct

import numpy as np
import pytest
from benchmarks.pictures import TABLE_SHOWN, canvas, encoded, photo
from conftest import ROOT
from PIL import Image, ImageDraw
from scipy import ndimage

from mnist_pipeline.dataset import read_pairs
from mnist_pipeline.files import InputError, write_atomically
from mnist_pipeline.mnist import TEST_IMAGES, TEST_LABELS
from mnist_pipeline.use import digit
from mnist_pipeline.use.digit import read_digit, to_mnist

SEVEN = [(80, 60), (200, 60), (120, 230)]
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def drawing(*strokes, size=(280, 280), ink=0, paper=255, mode="L", width=20) -> Image.Image:
    """Strokes on a sheet of paper."""
    sheet = Image.new(mode, size, paper)
    for stroke in strokes:
        ImageDraw.Draw(sheet).line(stroke, fill=ink, width=width)
    return sheet


def seen(picture: Image.Image, kind: str = "PNG", **options) -> np.ndarray:
    """What the network gets from a picture in a file."""
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return read_digit(content)


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of two images."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.fixture(scope="module")
def images(tmp_path_factory, digits_files):
    """Some of the embedded digits, and what a clean picture of each one gives."""
    folder = tmp_path_factory.mktemp("digits")
    for name, content in digits_files.items():
        write_atomically(folder / name, content)
    some = read_pairs(folder / TEST_IMAGES.name, folder / TEST_LABELS.name)[0][:6]
    return some, [to_mnist(Image.fromarray(np.pad(image, 14))) for image in some]


def test_longer_side_and_centre(images):
    """20 pixels and the aspect kept; the centre of mass at index 14, to half a pixel."""
    for image in images[1]:
        rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)  # its faint rim may round to 0
        assert ndimage.center_of_mass(image) == pytest.approx((14, 14), abs=0.51)
    tall = seen(drawing([(140, 40), (140, 240)]))
    rows, columns = (np.flatnonzero(tall.any(axis)) for axis in (1, 0))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 2)


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda image, rng: encoded(canvas(image, rng), "PNG"), 0.95),
        (lambda image, rng: photo(image, rng, TABLE_SHOWN), 0.9),
        (lambda image, rng: photo(image, rng, shadow=True), 0.85),
    ],
    ids=["canvas", "photo", "shadow"],
)
def test_any_place_size_and_light(images, make, least):
    """On a canvas, photographed, on a table or in half a shadow, a digit is nearly what it is."""
    rng = np.random.default_rng(0)
    found = [read_digit(io.BytesIO(make(image, rng))) for image in images[0]]
    assert np.mean([alike(*pair) for pair in zip(found, images[1], strict=True)]) > least


def test_a_thin_pencil():
    """Strokes one pixel wide, or a faint one of three, are the same digit."""
    expected = seen(drawing(SEVEN, width=6))
    for picture in (drawing(SEVEN, width=1), drawing(SEVEN, width=3, ink=220)):
        assert alike(seen(picture), expected) > 0.7


@pytest.mark.parametrize("colours", [(0, 255), (255, 120)])
def test_gaps_of_a_small_digit(colours):
    """The narrow gaps between its thin strokes are paper, not ink, whichever is lighter."""
    eight = [(150, 60), (110, 100), (190, 190), (150, 230), (110, 190), (190, 100), (150, 60)]
    ink, paper = colours
    small = drawing(eight, size=(800, 800), ink=ink, paper=paper, width=8)
    assert alike(seen(small), seen(drawing(eight, width=10))) > 0.9


def test_a_stroke_of_half_the_strength():
    """Whoever lifts the pen a little still writes the same digit."""
    bar, stem = SEVEN[:2], SEVEN[1:]
    lifted = drawing(bar)
    ImageDraw.Draw(lifted).line(stem, fill=140, width=20)
    assert alike(seen(lifted), seen(drawing(bar, stem))) > 0.8


def test_ink_is_the_same_in_a_shadow():
    """A digit with the edge of a shadow across it: neither half is darker, nor is the edge ink."""
    with Image.open(ROOT / "docs/digit.jpg") as picture:
        grey = np.asarray(picture.convert("L"))
    y, x = np.indices(grey.shape) / max(grey.shape) - 0.5
    expected = ndimage.gaussian_filter(seen(Image.fromarray(grey)).astype(float), 1)
    for angle in range(0, 360, 60):
        half = np.where(np.cos(np.deg2rad(angle)) * x + np.sin(np.deg2rad(angle)) * y > 0, 0.4, 1)
        shaded = seen(Image.fromarray((grey * half).astype(np.uint8))).astype(float)
        assert alike(ndimage.gaussian_filter(shaded, 1), expected) > 0.8, angle


def test_closely_squared_paper():
    """What lies between the lines is paper, not light ink."""
    squared = np.asarray(drawing(SEVEN, width=6)).copy()
    for at in range(0, 280, 14):
        for lines in (squared[at : at + 2], squared[:, at : at + 2]):
            np.minimum(lines, 150, out=lines)
    assert alike(seen(Image.fromarray(squared)), seen(drawing(SEVEN, width=6))) > 0.9


def test_light_that_is_too_strong():
    """Paper that the camera overexposes, so that it is plain white, is still paper."""
    light = np.linspace(0.5, 1.5, 280)[:, None] * np.linspace(0.8, 1.2, 280)
    grey = np.clip(np.asarray(drawing(SEVEN, ink=40, paper=200)) * light, 0, 255)
    lit = seen(Image.fromarray(grey.astype(np.uint8)))
    assert alike(lit, seen(drawing(SEVEN))) > 0.7


def test_whatever_the_file():
    """Colour, transparency, 16 bits, white ink, a small or a large sheet: the same digit."""
    expected = seen(drawing(SEVEN))
    deep = Image.fromarray(np.asarray(drawing(SEVEN, ink=80)).astype(np.uint16) * 257)
    black, white = (
        drawing(SEVEN, ink=(grey, grey, grey, 255), paper=(grey, grey, grey, 0), mode="RGBA")
        for grey in (0, 255)
    )
    blue = drawing(SEVEN, ink=(0, 0, 120), paper=(250, 240, 200), mode="RGB")
    large = drawing(SEVEN).resize((1120, 1120))
    wide = drawing(SEVEN, size=(700, 300))
    for picture in (deep, black, white, blue, large, wide, drawing(SEVEN, ink=255, paper=0)):
        assert alike(seen(picture), expected) > 0.97


def test_mnists_form_stays(images):
    """An image that already has MNIST's form is taken as it is; an empty one is not."""
    high = np.roll(images[0][0], -4, axis=0)  # some of MNIST's reach to the top
    assert high[0].any()
    for image in (*images[0], high):
        assert (read_digit(io.BytesIO(encoded(Image.fromarray(image), "PNG"))) == image).all()
    with pytest.raises(InputError, match=digit.NOTHING):
        seen(Image.new("L", (28, 28)))


def test_upright_by_the_orientation_tag():
    """A phone stores the picture as the sensor lay, and says in a tag how that was."""
    tag = Image.Exif()
    tag[0x0112] = 6  # the sensor lay on its side
    lying, upright = drawing(SEVEN).rotate(90), seen(drawing(SEVEN))
    clear = drawing(SEVEN, ink=(0, 0, 0, 255), paper=(0, 0, 0, 0), mode="RGBA").rotate(90)
    deep = Image.fromarray(np.asarray(lying).astype(np.uint16) * 257)
    for kind, picture in (("JPEG", lying), ("PNG", clear), ("PNG", deep)):
        assert alike(seen(picture, kind, exif=tag), upright) > 0.97
    assert alike(seen(lying, "JPEG"), upright) < 0.7


def test_broken_digit_stays_whole():
    """A five whose bar is apart; specks of dirt do not count."""
    body = [(190, 70), (110, 70), (105, 140), (170, 150), (180, 200), (100, 220)]
    whole = seen(drawing(body))
    gap = drawing(body)
    ImageDraw.Draw(gap).rectangle((130, 50, 144, 90), fill=255)
    assert alike(seen(gap), whole) > 0.9
    dirty = drawing(body)
    for x, y in ((20, 20), (260, 250), (76, 105)):
        ImageDraw.Draw(dirty).ellipse((x, y, x + 6, y + 6), fill=0)
    assert alike(seen(dirty), whole) > 0.97


NOISE = np.random.default_rng(0).integers(0, 256, (300, 300)).astype(np.uint8)


@pytest.mark.parametrize(
    "picture",
    [
        *(Image.new("L", (300, 200), grey) for grey in (0, 128, 255)),
        Image.new("L", (1, 1)),
        Image.fromarray(NOISE),
        Image.linear_gradient("L"),
    ],
)
def test_no_digit(picture):
    """Black, grey, white, a single pixel, noise, mere shade."""
    with pytest.raises(InputError, match=digit.NOTHING):
        seen(picture)


@pytest.mark.parametrize("second", [200, 90])
def test_several_digits(second):
    """Two that lie apart, or near each other."""
    with pytest.raises(InputError, match="expected one digit, found several"):
        seen(drawing([(50, 60), (50, 220)], [(second, 60), (second, 220)]))


def test_what_reaches_the_rim():
    """A finger or a pen is not the digit, though it is larger; but a digit alone may be there."""
    seven = [(130, 130), (190, 130), (150, 220)]
    held = drawing(seven, width=8)
    ImageDraw.Draw(held).ellipse((-20, 60, 60, 100), fill=90)
    ImageDraw.Draw(held).line([(80, 274), (240, 268)], fill=0, width=8)
    assert alike(seen(held), seen(drawing(seven, width=8))) > 0.97
    tall = drawing([(140, 0), (140, 279)])
    assert alike(seen(tall), seen(drawing([(140, 40), (140, 240)], width=14))) > 0.97


def test_too_many_pixels():
    """One phrase, before any is decoded, even by ICO's reader, which decodes as it opens."""
    png = encoded(Image.new("1", (7_072, 7_072)), "PNG")
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(png), 22) + png
    with pytest.raises(InputError, match=r"^expected at most 50,000,000 pixels, found more$"):
        read_digit(io.BytesIO(icon))


def inside_iptc(content: bytes) -> bytes:
    """A picture of 9 × 9 in a file of the International Press Telecommunications Council."""
    fields = {(3, 60): b"\1\0", (3, 20): b"\0\x09", (3, 30): b"\0\x09", (3, 120): b"\5"}
    fields[8, 10] = content
    parts = (struct.pack(">3BH", 28, *at, len(one)) + one for at, one in fields.items())
    return b"".join(parts) + bytes(5)


def test_no_picture(tmp_path):
    """Text, PostScript, half a file, no file: a phrase each."""
    whole = encoded(drawing(SEVEN), "PNG")
    for content, found in (
        (b"hello", "something else"),
        (POSTSCRIPT, "something else"),
        (inside_iptc(POSTSCRIPT), "something else"),
        (whole[:300], "a broken one"),
    ):
        with pytest.raises(InputError, match=f"such as JPEG or PNG, found {found}"):
            read_digit(io.BytesIO(content))
    # Turned on its side, and with a text for its width, which Pillow cannot write back.
    odd = struct.pack("<6s2sHLH", b"Exif", b"II", 42, 8, 2)
    odd += struct.pack("<HHL4sHHLHxxL", 0x0100, 2, 4, b"wide", 0x0112, 3, 1, 6, 0)
    with pytest.raises(InputError, match="found a broken one"):
        seen(drawing(SEVEN), "JPEG", exif=odd)
    with pytest.raises(InputError, match="No such file or directory"):
        read_digit(tmp_path / "none.png")
    with pytest.raises(InputError, match="Is a directory"):
        read_digit(tmp_path)
