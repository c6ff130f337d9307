"""One picture of a digit, as MNIST would have it: 28 × 28 bytes, white ink on black.

MNIST's own recipe: the digit's longer side is 20 pixels, its aspect is kept, and its centre of mass
lies in the middle. Source: Y. LeCun et al., Gradient-based learning applied to document
recognition, Proceedings of the IEEE 86, 1998, section III.A.
"""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageStat, UnidentifiedImageError
from scipy import ndimage

from mnist_pipeline.files import InputError
from mnist_pipeline.mnist import SIDE

DIGIT, CENTRE = 20, 14.0  # pixels of the longer side; the index that the centre of mass gets
PIXELS = 50_000_000  # at most in a picture; Pillow checks before it decodes
Image.MAX_IMAGE_PIXELS = PIXELS // 2  # above which Pillow warns; it refuses twice as many
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
Image.init()
Image.ID.remove("EPS")  # a program, which Pillow would let Ghostscript run; IPTC may hold one, too
WORKING = 400  # pixels of the longer side, to which every picture is scaled
NARROW, WIDE = (21, 41, 81), 101  # of these pixels: widths of strokes, and more than any has
THIN = 7  # of these pixels: the width of a thin stroke
BLUR = 1.6  # of these pixels: a standard deviation
DARK = 32  # of 255, added everywhere: in the dark, differences mean little
FAINT = 0.06  # of the paper's light: less contrast is no digit
REACH = 16  # pixels: half the gap that a broken stroke may have
ANOTHER = 0.4  # of the largest part's ink: a part with more is another digit
TALL, LARGE = 0.6, 0.25  # of the digit's height, of its largest part: two such parts are two digits
LEAST = 20 + 2 * REACH  # pixels: a twentieth of the picture, which a digit has at least, and REACH
DIRT = 0.03  # of the largest part's size: less is dirt
EIGHT = np.ones((3, 3))  # pixels that touch at a corner are connected, too
NOTHING = "expected a digit, found none"
SEVERAL = "expected one digit, found several"

Grey = NDArray[np.float64]  # (H, W)


def read_digit(file: Path | BinaryIO) -> NDArray[np.uint8]:
    """The digit on a picture, as uint8 (28, 28). What has MNIST's form already stays as it is.

    Raises InputError for what Pillow cannot read, for more than 50 million pixels, and as
    `to_mnist` does.
    """
    picture = read_picture(file)
    grey = np.asarray(picture)
    if grey.shape == (SIDE, SIDE) and 0.5 < (grey == 0).mean() < 1:
        return grey  # white on black: of each of MNIST's images at least 55 % is black
    return to_mnist(picture)


def read_picture(file: Path | BinaryIO) -> Image.Image:
    """A picture, upright and grey."""
    try:
        with Image.open(file) as picture:
            return flatten(ImageOps.exif_transpose(picture)).convert("L")
    except Image.DecompressionBombError as error:
        raise InputError(f"expected at most {PIXELS:,} pixels, found more") from error
    except Exception as error:  # what Pillow raises has no other class in common
        if reason := getattr(error, "strerror", None):  # no such file, or a folder
            raise InputError(reason) from error
        unknown = isinstance(error, UnidentifiedImageError)
        found = "something else" if unknown else f"a broken one: {error}"
        raise InputError(f"expected a picture such as JPEG or PNG, found {found}") from error


def flatten(picture: Image.Image) -> Image.Image:
    """A picture of 8 bits. Transparent parts become white, or black below light ink."""
    if picture.mode[0] in "IF":  # 16 or 32 bits, which Pillow would cut off at 255
        values = np.nan_to_num(np.asarray(picture, dtype=np.float64), posinf=0, neginf=0)
        return Image.fromarray((255 * values / max(values.max(), 1)).clip(0).astype(np.uint8))
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        light = ImageStat.Stat(seen.convert("L"), seen.getchannel("A")).mean[0] > 127
        ground = Image.new("RGBA", seen.size, "black" if light else "white")
        return Image.alpha_composite(ground, seen)
    return picture


def to_mnist(picture: Image.Image) -> NDArray[np.uint8]:
    """The digit on a grey picture, dark on light or light on dark, as uint8 (28, 28).

    Raises InputError where there is no digit, or more than one.
    """
    ink = find_ink(scale(picture, WORKING))
    mask = find_digit(ink)
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    small = Image.fromarray((ink * mask)[box].astype(np.float32))
    method = Image.Resampling.BOX if max(small.size) > DIGIT else Image.Resampling.BICUBIC
    return centre(scale(small, DIGIT, method).clip(0, 1))


def scale(picture: Image.Image, longer: int, method: int = Image.Resampling.BICUBIC) -> Grey:
    """A grey picture as numbers, scaled to a longer side of so many pixels."""
    factor = longer / max(picture.size)
    width, height = (max(1, round(side * factor)) for side in picture.size)
    return np.asarray(picture.resize((width, height), method), dtype=np.float64)


def find_ink(grey: Grey) -> Grey:
    """How much ink there is at each pixel, 0 to 1, whatever the light and the paper's colour.

    Ink is narrow; paper, shadows and the table are wide. So an opening or a closing takes the ink
    away and leaves the rest as it is. The amount of ink is relative to the light on the paper.
    """
    smooth = ndimage.gaussian_filter(grey, BLUR) + DARK
    smooth = np.pad(smooth, WIDE, mode="edge")  # as if what touches the rim went on
    paper = (ndimage.grey_opening if is_ink_light(smooth) else ndimage.grey_closing)(smooth, WIDE)
    depth: Grey = np.abs(smooth / paper - 1)[WIDE:-WIDE, WIDE:-WIDE]
    most = depth.max()
    if most < max(FAINT, 7 * np.median(depth)):  # a blank sheet, or noise
        raise InputError(NOTHING)
    strength = depth[depth > most / 2].mean()
    floor = 0.15 * strength
    ink: Grey = np.clip((depth - floor) / (strength - floor), 0, 1)
    return ink


def is_ink_light(grey: Grey) -> bool:
    """Whether narrow parts are light rather than dark; the narrower ones count more."""
    tone = np.log(grey)  # a shadow takes the same share of ink and of paper
    # A gap between thin dark strokes is narrow and light: thin strokes of either go first.
    closed, opened = ndimage.grey_closing(tone, THIN), ndimage.grey_opening(tone, THIN)

    def weigh(width: int) -> float:
        hats = ndimage.white_tophat(closed, width), ndimage.black_tophat(opened, width)
        # What covers most of the picture is paper, such as the gaps between close lines.
        light, dark = ((hat - np.median(hat)).clip(0) for hat in hats)
        return float((light**2 - dark**2).sum() / width**3)

    return sum(map(weigh, NARROW)) > 0


def find_digit(ink: Grey) -> NDArray[np.bool_]:
    """Where the digit is, (H, W): the largest group of parts that lie near each other."""
    strong = ink > 0.25
    near = ndimage.distance_transform_edt(~strong) <= REACH
    groups, count = ndimage.label(near, EIGHT)
    amounts = ndimage.sum_labels(ink * strong, groups, range(1, count + 1)) * find_inside(groups)
    order = np.argsort(amounts)
    if count > 1 and amounts[order[-2]] > ANOTHER * amounts[order[-1]]:
        raise InputError(SEVERAL)
    mask = strong & (groups == order[-1] + 1)
    parts, number = ndimage.label(mask, EIGHT)
    sizes = ndimage.sum_labels(mask, parts, range(1, number + 1))
    heights = np.array([rows.stop - rows.start for rows, _ in ndimage.find_objects(parts)])
    whole = np.ptp(np.flatnonzero(mask.any(axis=1)))
    if np.sum((heights > TALL * whole) & (sizes > LARGE * sizes.max())) > 1:
        raise InputError(SEVERAL)
    kept: NDArray[np.bool_] = np.isin(parts, np.flatnonzero(sizes >= DIRT * sizes.max()) + 1)
    return kept


def find_inside(groups: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which groups are away from the rim, where fingers and a notebook's rings come in.

    All of them, if none inside is as long as a digit: then the digit itself reaches the rim.
    """
    height, width = groups.shape
    inside, long = np.ones((2, groups.max()), dtype=bool)
    for group, (rows, columns) in enumerate(ndimage.find_objects(groups)):
        ends = rows.start > 0, rows.stop < height, columns.start > 0, columns.stop < width
        inside[group] = all(ends)
        long[group] = max(rows.stop - rows.start, columns.stop - columns.start) > LEAST
    return inside if any(inside & long) else np.ones_like(inside)


def centre(ink: Grey) -> NDArray[np.uint8]:
    """At most 20 × 20 on a field of 28 × 28, its centre of mass at index 14."""
    free = SIDE - np.array(ink.shape)
    before = np.round(CENTRE - np.array(ndimage.center_of_mass(ink))).clip(0, free).astype(int)
    field = np.pad(ink / ink.max(), np.stack([before, free - before], axis=1))
    return np.round(field * 255).astype(np.uint8)
