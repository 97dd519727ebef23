"""Pictures of scenes: Pillow polygons drawn at three times the size, on textured grounds, under uneven light.

Our choice throughout. The jitter is there so that no object is known by the colour of a pixel alone.
"""

from collections.abc import Callable
import functools
import io

import numpy as np
from PIL import Image, ImageDraw

from harmopower.data.scenes.world import Scene, Thing

OVERSAMPLING = 3
JPEG_QUALITY = 92
PAINT = {
    "red": (214, 38, 36),
    "yellow": (240, 210, 40),
    "green": (40, 158, 56),
    "cyan": (60, 206, 214),
    "blue": (40, 72, 208),
    "pink": (244, 112, 186),
    "white": (243, 243, 240),
    "black": (24, 24, 28),
}
GROUNDS = ("clouds", "slope", "weave", "grain")


def draw(
    scene: Scene, size: int, rng: np.random.Generator, sprite: Callable | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Paints a scene.

    Args:
      scene: a scene that is laid out.
      size: side of the picture in pixels.
      sprite: `sprite(thing, size, rng)` gives a thing's coverage [h, w], its colours [h, w, 3] and the corner
        (top, left); None: the shapes of this module.

    Returns:
      image uint8 [size, size, 3], and for each thing the share of every pixel in which it is visible, float32
      [size, size].
    """
    canvas = _ground(size, rng)
    visible = []
    for thing in scene.things:
        alpha, paint, (top, left) = (sprite or _sprite)(thing, size, rng)
        height, width = alpha.shape
        window = (slice(top, top + height), slice(left, left + width))
        canvas[window] += alpha[..., None] * (paint - canvas[window])
        for below in visible:
            below[window] *= 1 - alpha
        cover = np.zeros((size, size), np.float32)
        cover[window] = alpha
        visible.append(cover)
    lit = canvas * _light(size, rng) + rng.normal(0, 2.5, canvas.shape)
    return np.clip(lit, 0, 255).astype(np.uint8), visible


def visible_box(cover: np.ndarray) -> np.ndarray:
    """The tight box of the pixels that a thing fills at least by half: float32 [4], y0, x0, y1, x1 as shares."""
    rows, columns = (np.flatnonzero((cover >= 0.5).any(axis)) for axis in (1, 0))
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], np.float32) / len(cover)


def encode(image: np.ndarray) -> bytes:
    """JPEG bytes; full colour resolution, because halved it would wash out the stripes of a 64-pixel picture."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


# ---- One thing ----


def _sprite(thing: Thing, size: int, rng):
    """Coverage [h, w], colours [h, w, 3] and the corner (top, left) of a thing, cut at the picture's border."""
    radius, centre = thing.radius * size, np.array([thing.y, thing.x]) * size
    low = np.maximum(np.floor(centre - radius - 1), 0).astype(int)
    high = np.minimum(np.ceil(centre + radius + 1), size).astype(int)
    height, width = (high - low) * OVERSAMPLING
    turned = (_turned(outline, thing.angle) * radius + (centre - low)[::-1] for outline in OUTLINES[thing.shape])
    outlines = [[tuple(point) for point in (points * OVERSAMPLING).tolist()] for points in turned]
    mask = Image.new("L", (int(width), int(height)))
    for hole, outline in enumerate(outlines):
        ImageDraw.Draw(mask).polygon(outline, fill=0 if hole else 255)
    body, shade = _paints(thing, rng)
    picture = _filled(thing, body, shade, (int(height), int(width)), radius, rng)
    for outline in outlines:
        ImageDraw.Draw(picture).polygon(outline, outline=tuple(int(c) for c in 0.25 * body), width=2 * OVERSAMPLING)
    alpha = np.asarray(mask.reduce(OVERSAMPLING), np.float32) / 255
    return alpha, np.asarray(picture.reduce(OVERSAMPLING), np.float32), low


def _turned(points, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return points @ np.array([[c, s], [-s, c]])


def _paints(thing, rng):
    """The thing's colour with jitter, and the second colour of its filling: the same hue, darker or paler."""
    body = np.clip(np.array(PAINT[thing.colour]) + rng.uniform(-14, 14, 3), 0, 255)
    other = {"white": 165.0, "black": 110.0}.get(thing.colour)
    if other is not None:
        return body, np.full(3, other)
    return body, body * 0.7 if rng.random() < 0.5 else body + 0.4 * (255 - body)


def _filled(thing, body, shade, shape, radius, rng):
    """A picture of the filling alone; `radius` in pixels sets how coarse it is."""
    if thing.filling == "plain":
        return Image.new("RGB", shape[::-1], tuple(int(c) for c in body))
    step = OVERSAMPLING * np.clip(radius * rng.uniform(0.5, 0.6), 4.2, 7.5)
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 1, 2)
    y, x = (np.arange(length, dtype=np.float32) / step for length in shape)
    marked = _wave(y * np.sin(angle), x * np.cos(angle) + phase[0])
    if thing.filling == "striped":
        marked = marked < 0.45
    else:
        across = _wave(y * np.cos(angle), phase[1] - x * np.sin(angle))
        marked = (marked - 0.5) ** 2 + (across - 0.5) ** 2 < 0.31**2
    return Image.fromarray(np.array([body, shade]).astype(np.uint8)[marked.view(np.uint8)])


def _wave(down, along):
    """A saw-tooth 0..1 of period 1 over the plane, from its phases `down` the rows and `along` the columns."""
    phase = down.astype(np.float32)[:, None] + along.astype(np.float32)
    return phase - np.floor(phase)


def _circle(count=40):
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(t), np.sin(t)], 1)


def _regular(corners, first=-90.0):
    t = np.radians(first + 360 * np.arange(corners) / corners)
    return np.stack([np.cos(t), np.sin(t)], 1)


def _star():
    points = _regular(10)
    points[1::2] *= 0.45
    return points


def _cross(arm=0.34):
    quarter = np.array([(-arm, -1), (arm, -1), (arm, -arm)])
    return np.concatenate([_turned(quarter, 90 * turn) for turn in range(4)])


def _moon():
    """A crescent that opens to the right: the outer arc, and back along a circle that is moved to the right."""
    outer = np.radians(np.linspace(50, 310, 30))
    tip = np.array([np.cos(outer[0]), np.sin(outer[0])])
    centre = 0.62
    radius = np.hypot(tip[0] - centre, tip[1])
    start = np.arctan2(tip[1], tip[0] - centre)
    inner = np.linspace(2 * np.pi - start, start, 24)
    back = np.stack([centre + radius * np.cos(inner), radius * np.sin(inner)], 1)
    return np.concatenate([np.stack([np.cos(outer), np.sin(outer)], 1), back]) + np.array([0.15, 0])


OUTLINES = {
    "circle": (_circle(),),
    "square": (_regular(4, -45) * 1.2,),
    "triangle": (_regular(3) * 1.15,),
    "star": (_star() * 1.12,),
    "bar": (_regular(4, -45) * np.array([1.5, 0.5]),),
    "cross": (_cross(),),
    "ring": (_circle(), 0.5 * _circle()),
    "moon": (_moon(),),
}  # the outline [P, 2] as (x, y), about 1 in radius, and those of the holes in it


# ---- Around the things ----


def _ground(size, rng):
    """A dull textured ground, float32 [size, size, 3], between the luminance of black and of white things."""
    tone = rng.uniform(80, 175) + rng.uniform(-22, 22, 3)
    kind = str(rng.choice(GROUNDS))
    texture = _noise(size, int(rng.integers(3, 9)), rng) * rng.uniform(5, 12)
    y, x = _grid(size)
    if kind == "slope":
        angle = rng.uniform(0, 2 * np.pi)
        texture = texture * 0.4 + 40 * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    elif kind == "weave":
        fx, fy = rng.uniform(20, 60, 2)
        texture = texture * 0.5 + 9 * (np.sin(fx * x) + np.sin(fy * y))
    elif kind == "grain":
        texture = texture * 0.5 + rng.normal(0, 4, (size, size))
    return (tone + texture[..., None]).astype(np.float32)


def _light(size, rng):
    """Uneven, slightly tinted light: factors float32 [size, size, 3] around 1."""
    y, x = _grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.3) * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    return (rng.uniform(0.85, 1.1) * (1 + slope))[..., None] * rng.uniform(0.96, 1.04, 3).astype(np.float32)


@functools.cache
def _grid(size):
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    return y, x


def _noise(size, cells, rng):
    """Smooth noise in about -1..1: a few random values, blown up."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
