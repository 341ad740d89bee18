"""A built-in data set: scenes of patterned things lying about on patterned ground.

Made to be hard in the ways that real scenes are. Classes come in pairs of one outline that only
their markings tell apart for sure (a coin's rings and a wheel's spokes, a plank's grain and a
ladder's rungs); colours overlap between classes. Pebbles and the ground's own patterns belong to
the background but look like things. Things hide one another; light falls unevenly; outlines are
void, as in PASCAL VOC.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from eln_jax.data.labels import make_code
from eln_jax.data.sources import check_names
from eln_jax.errors import UserError

CLASS_NAMES = ("ground", "coin", "wheel", "plank", "ladder", "kite", "leaf", "tent", "fir")
_OUTLINES = ("", "disc", "disc", "bar", "bar", "diamond", "diamond", "triangle", "triangle")
_MARKINGS = ("", "rings", "spokes", "along", "across", "check", "veins", "across", "along")
_HUES = (0.1, 0.0, 0.1, 0.27, 0.37, 0.54, 0.64, 0.77, 0.87)
_PEBBLE = 0
_VOID_WIDTH = 1.5
_SHADOW = 0.62
# Drawing a scene costs a small network as much as a third of its step: those of a data set up to
# this size, in bytes, are drawn once.
_KEPT_BYTES = 64 * 2**20


class _Thing(NamedTuple):
    """One object of a scene; lengths in pixels, angles in radians, colours in [0, 1]."""

    label: int
    center: tuple[float, float]
    radius: float
    narrowness: float
    angle: float
    pitch: float
    phase: float
    contrast: float
    color: np.ndarray


class SyntheticSource:
    """Scenes made on demand, each a function of seed and index alone; all are labelled."""

    def __init__(
        self,
        length: int,
        size: tuple[int, int] = (96, 96),
        *,
        num_classes: int = 6,
        seed: int = 0,
        start: int = 0,
        ignore_label: int = 255,
        class_names: Sequence[str] = (),
    ):
        """Describes the scenes; makes none.

        Args:
          length: Number of scenes.
          size: Height and width in pixels.
          num_classes: Number of classes with the background, 2 to 9.
          seed: Another seed is another data set.
          start: Number of the first scene, so that training and validation scenes of one seed
            can lie apart.
          ignore_label: Id of void pixels.
          class_names: One a class; those of the scenes' things if empty.

        Raises:
          UserError: The numbers make no data set.
        """
        if not 2 <= num_classes <= len(CLASS_NAMES):
            raise UserError(
                f"num_classes is {num_classes}: the synthetic scenes have from 2 to "
                f"{len(CLASS_NAMES)} classes."
            )
        if length < 1 or min(size) < 16:
            raise UserError("ask for at least one synthetic scene of at least 16x16 pixels.")
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        names = class_names or CLASS_NAMES[:num_classes]
        make_code(num_classes, ignore_label)  # checks that the numbers agree
        self.class_names = check_names(num_classes, names)
        self.ids: Sequence[str] = [f"scene_{number:06d}" for number in range(start, start + length)]
        self._size = (int(size[0]), int(size[1]))
        self._seed = seed
        self._kept: dict[int, np.ndarray] = {}
        self._keeps = length * self._size[0] * self._size[1] * 3 <= _KEPT_BYTES

    def __len__(self) -> int:
        """Returns the number of scenes."""
        return len(self.ids)

    def has_label(self, index: int) -> bool:
        """Returns True: every scene knows its label."""
        del index
        return True

    def location(self, index: int) -> str:
        """Returns the scene's id: there are no files."""
        return self.ids[index]

    def describe(self) -> dict[str, Any]:
        """Returns the settings that make the scenes, as plain values."""
        return {
            "kind": "synthetic",
            "size": list(self._size),
            "num_classes": self.num_classes,
            "seed": self._seed,
            "ignore_label": self.ignore_label,
        }

    def read_image(self, index: int) -> np.ndarray:
        """Draws a scene, or returns it as drawn before.

        Returns:
          uint8 RGB `[height, width, 3]`, read-only.
        """
        scene = self._kept.get(index)
        if scene is None:
            rng = self._rng(index)
            scene = _paint(rng, self._size, _draw_things(rng, self._size, self.num_classes))
            scene.setflags(write=False)
            if self._keeps:
                self._kept[index] = scene
        return scene

    def read_label(self, index: int) -> np.ndarray:
        """Draws the class ids of a scene.

        Returns:
          uint8 `[height, width]`, outlines as `ignore_label`.
        """
        things = _draw_things(self._rng(index), self._size, self.num_classes)
        return _label(self._size, things, self.ignore_label)

    def _rng(self, index: int) -> np.random.Generator:
        number = int(self.ids[index].rpartition("_")[2])
        return np.random.default_rng([self._seed, number])


def _draw_things(rng: np.random.Generator, size: tuple[int, int], num_classes: int) -> list[_Thing]:
    """Draws what lies where, lowest first."""
    labels = rng.integers(1, num_classes, rng.integers(3, 7))
    pebbles = np.full(rng.integers(1, 4), _PEBBLE)
    return [
        _draw_thing(rng, size, int(label))
        for label in rng.permutation(np.concatenate([labels, pebbles]))
    ]


def _draw_thing(rng: np.random.Generator, size: tuple[int, int], label: int) -> _Thing:
    unit = min(size)
    radius = unit * rng.uniform(0.13, 0.25)
    outline = _OUTLINES[label]
    narrow = {"bar": (0.38, 0.62), "diamond": (0.55, 0.85), "triangle": (0.8, 1.1)}
    # Each class tends to a hue, loosely, near that of its pair: colour is a hint and no proof.
    hue = rng.normal(_HUES[label], 0.12)
    saturation = rng.uniform(0.05, 0.25) if label == _PEBBLE else rng.uniform(0.3, 0.8)
    return _Thing(
        label=label,
        center=(rng.uniform(0, 1) * size[0], rng.uniform(0, 1) * size[1]),
        radius=radius * (0.8 if label == _PEBBLE else 1.2 if outline == "bar" else 1.0),
        narrowness=rng.uniform(*narrow.get(outline, (0.75, 1.0))),
        # Things lie within 35 degrees of level: grain and rungs differ in the picture's own frame,
        # which a small network learns in a few hundred steps.
        angle=rng.uniform(-0.6, 0.6) + np.pi * rng.integers(2),
        pitch=rng.uniform(0.8, 1.25),
        phase=rng.uniform(0, 2 * np.pi),
        contrast=rng.uniform(0.3, 0.5) * (0.5 if label == _PEBBLE else 1.0),
        color=_color(hue, saturation, rng.uniform(0.4, 0.9)),
    )


def _color(hue: float, saturation: float, value: float) -> np.ndarray:
    """Returns RGB in [0, 1], float32 `[3]`, of a hue in turns."""
    wheel = np.abs((hue + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1
    return (value * (1 + saturation * (np.clip(wheel, 0, 1) - 1))).astype(np.float32)


class _Patch(NamedTuple):
    """The part of the scene that a thing covers, in the thing's own coordinates."""

    where: tuple[slice, slice]
    u: np.ndarray
    v: np.ndarray
    distance: np.ndarray


def _patch(thing: _Thing, size: tuple[int, int], shift: float = 0.0) -> _Patch:
    """Lays out a thing: coordinates, and pixels to its outline, negative inside."""
    row, column = thing.center[0] + shift, thing.center[1] + shift
    reach = 1.45 * thing.radius + 2
    where = (_span(row, reach, size[0]), _span(column, reach, size[1]))
    y = np.arange(where[0].start, where[0].stop, dtype=np.float32)[:, None] - np.float32(row)
    x = np.arange(where[1].start, where[1].stop, dtype=np.float32)[None, :] - np.float32(column)
    cosine, sine = np.float32(np.cos(thing.angle)), np.float32(np.sin(thing.angle))
    u, v = cosine * x + sine * y, cosine * y - sine * x
    return _Patch(where, u, v, _distance(thing, u, v))


def _span(center: float, reach: float, extent: int) -> slice:
    low, high = (min(max(int(edge), 0), extent) for edge in (center - reach, center + reach + 1))
    return slice(low, high)


def _distance(thing: _Thing, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    long, short = np.float32(thing.radius), np.float32(thing.radius * thing.narrowness)
    match _OUTLINES[thing.label]:
        case "bar":
            return np.maximum(np.abs(u) - long, np.abs(v) - short)
        case "diamond":
            steep = np.float32(1 / np.hypot(1 / long, 1 / short))
            return (np.abs(u) / long + np.abs(v) / short - 1) * steep
        case "triangle":
            steep = np.float32(np.hypot(2 * long, short))
            side = (2 * long * np.abs(v) + short * (u - long)) / steep
            return np.maximum(side, -u - long)
        case _:
            return (np.hypot(u / long, v / short) - 1) * short


def _marking(thing: _Thing, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns a thing's pattern, -1 to 1: what tells the classes of a pair apart."""
    wave = np.float32(thing.pitch * 2 * np.pi / (0.62 * thing.radius))
    phase = np.float32(thing.phase)
    match _MARKINGS[thing.label]:
        case "rings":
            pattern = np.sin(wave * np.hypot(u, v) + phase)
        case "spokes":
            pattern = np.sin(np.round(7 * thing.pitch) * np.arctan2(v, u) + phase)
        case "along":
            pattern = np.sin(wave * v + phase)
        case "across":
            pattern = np.sin(wave * u + phase)
        case "check":
            pattern = np.sin(wave * u + phase) * np.sin(wave * v) * 1.6
        case "veins":
            pattern = np.sin(wave * (u + np.abs(v)) + phase)
        case _:
            # A pebble's blotches.
            pattern = np.sin(0.4 * wave * u + phase) * np.sin(0.5 * wave * v + 2 * phase)
    return np.tanh(2 * pattern)


def _label(size: tuple[int, int], things: Sequence[_Thing], ignore_label: int) -> np.ndarray:
    label = np.zeros(size, np.uint8)
    for thing in things:
        where, _, _, distance = _patch(thing, size)
        below = label[where]
        border = np.abs(distance) < _VOID_WIDTH / 2
        if thing.label == _PEBBLE:
            # Between pebble and ground there is no border of classes.
            border &= below != _PEBBLE
        below[distance < 0] = thing.label
        below[border] = ignore_label
    return label


def _paint(rng: np.random.Generator, size: tuple[int, int], things: Sequence[_Thing]) -> np.ndarray:
    grain = rng.standard_normal(size, np.float32)
    image = _ground(rng, size, grain)
    for thing in things:
        shade = _patch(thing, size, shift=0.14 * thing.radius)
        cover = np.clip(0.5 - shade.distance / 3, 0, 1)[..., None]
        image[shade.where] *= 1 - (1 - _SHADOW) * cover
        where, u, v, distance = _patch(thing, size)
        # Rounded by light from one side of the scene, wherever the thing points.
        relief = 0.14 * (u * np.cos(thing.angle + 0.8) - v * np.sin(thing.angle + 0.8))
        tone = 1 - relief / np.float32(thing.radius) + 0.05 * grain[where]
        tone += np.float32(thing.contrast) * _marking(thing, u, v)
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        below = image[where]
        below += cover * (tone[..., None] * thing.color - below)
    return _develop(rng, image)


def _ground(rng: np.random.Generator, size: tuple[int, int], grain: np.ndarray) -> np.ndarray:
    """Returns two blended colours under a weak pattern, float32 `[height, width, 3]`."""
    first, second = (
        _color(rng.uniform(), rng.uniform(0.0, 0.3), rng.uniform(0.3, 0.85)) for _ in range(2)
    )
    blend = _clouds(rng, size)[..., None]
    y = np.arange(size[0], dtype=np.float32)[:, None]
    x = np.arange(size[1], dtype=np.float32)[None, :]
    angle = rng.uniform(0, np.pi)
    wave = 2 * np.pi / (min(size) * rng.uniform(0.05, 0.12))
    c, s = np.float32(wave * np.cos(angle)), np.float32(wave * np.sin(angle))
    pattern = np.sin(c * x + s * y)
    if rng.uniform() < 0.5:
        pattern = pattern * np.sin(c * y - s * x)
    tone = 1 + np.float32(rng.uniform(0, 0.14)) * pattern + np.float32(0.05) * grain
    return (first + blend * (second - first)) * tone[..., None]


def _clouds(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Returns smooth noise, float32 `[height, width]`, about 0 to 1."""
    cells = Image.fromarray(rng.uniform(0, 1, (5, 5)).astype(np.float32))
    return np.asarray(cells.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _develop(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Lights the scene unevenly, tints it, adds the sensor's noise, and stores it in 8 bits."""
    height, width = image.shape[:2]
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.4)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(np.sin(angle))
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * np.float32(np.cos(angle))
    image *= (1 + np.float32(strength) * (x + y))[..., None]
    image *= (rng.uniform(0.85, 1.1) * rng.uniform(0.94, 1.06, 3)).astype(np.float32)
    noise = rng.standard_normal(image.shape, np.float32)
    image += np.float32(rng.uniform(0.01, 0.03)) * noise
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)
