"""Encoded images to upright RGB pixels, the same wherever an image is read, and to smaller files for preparation.

What is seen is what a viewer shows: the EXIF orientation is applied (boxes refer to the upright image), transparency
lies over white, of 16 bits the upper 8 count, palettes, grey and CMYK become RGB; of an animation the first frame.
Colour profiles are left aside, as CLIP's and OpenCLIP's preprocessing leaves them.
"""

from collections.abc import Iterator
import contextlib
import io
import logging
import warnings

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from harmopower.errors import RecordError

# Pillow warns of what it could read all the same (a damaged EXIF block, more pixels than usual) and logs what it then
# raises; no training run should print that for every such image in every epoch.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

QUALITY = 92  # of re-encoded JPEGs unless told otherwise (our choice)
_STORED_AS_IS = ("JPEG", "PNG", "WEBP")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_TURNS = {  # EXIF 2.3, tag Orientation: how the stored rows and columns become the upright picture
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes) -> Image.Image:
    """Decodes an encoded image to upright RGB, whatever its format and mode.

    Raises:
      RecordError: the bytes are no image that Pillow can read, a broken or a giant one, or one of floating-point or
        wider than 16-bit numbers, whose range nobody has agreed on.
    """
    with _opened(data) as image:
        return _upright_rgb(image)


def shrink(data: bytes, shortest_side: int, quality: int = QUALITY) -> bytes:
    """Re-encodes an image as a JPEG whose shorter side is at most `shortest_side`; never enlarges.

    A larger JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that does not go below the target, which is several
    times faster; the rest of the way is bicubic with antialias. The whole image is decoded in any case, so that what
    comes back has been proven to be readable.

    Args:
      data: an encoded image.
      shortest_side: in pixels.
      quality: of the JPEG, 1 to 100.

    Returns:
      The bytes as they are where nothing has to change: a JPEG, PNG or WebP that is small enough, upright, opaque and
      RGB or grey of 8 bits. Else a JPEG.

    Raises:
      RecordError: as `decode`.
    """
    with _opened(data) as image:
        kept = image.format in _STORED_AS_IS and image.mode in ("RGB", "L") and min(image.size) <= shortest_side
        whole = image.size
        image.draft(None, (shortest_side, shortest_side))
        small = _upright_rgb(image)
        if kept and not image.has_transparency_data and _orientation(image) == 1:
            return data
        return encode_jpeg(_fit(small, whole, shortest_side), quality)


def _fit(image: Image.Image, whole: tuple[int, int], shortest_side: int) -> Image.Image:
    """Resizes to the aspect of the `whole` image, which one decoded at reduced scale has only to a pixel."""
    if min(image.size) <= shortest_side:
        return image
    longest_side = round(max(whole) * shortest_side / min(whole))
    wide = image.size[0] > image.size[1]
    size = (longest_side, shortest_side) if wide else (shortest_side, longest_side)
    return image.resize(size, Image.Resampling.BICUBIC)


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """A JPEG of an RGB image, `quality` from 1 to 100."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image, its pixels not yet decoded; whatever goes wrong in the block is a RecordError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except Exception as error:  # damaged bytes lead Pillow's parsers into anything: OverflowError, struct.error, ...
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no format that Pillow knows" if unknown else str(error) or type(error).__name__
        raise RecordError(f"the image ({len(data)} bytes) cannot be decoded: {reason}") from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    # Asked for only now: a PNG may have its EXIF behind its pixels, and of a TIFF Pillow takes care while loading.
    turn = _TURNS.get(_orientation(image))
    pixels = _to_rgb(image)
    return pixels if turn is None else pixels.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block is common and the picture whole: taken as it lies, as viewers do
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        return _from_sixteen_bits(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known; store 8 or 16 bits")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")  # converting what is RGB copies every pixel
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its upper 8, as Pillow takes colour of 16 bits; a colour declared transparent is white."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() >= 1 << 16:
        raise ValueError(f"its pixels go from {values.min()} to {values.max()}; 16 bits hold 0 to {(1 << 16) - 1}")
    values[values == image.info.get("transparency")] = (1 << 16) - 1
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
