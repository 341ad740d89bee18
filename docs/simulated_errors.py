"""Draws docs/images/simulated_errors.png: `python -m docs.simulated_errors`, or with another path.

Each op makes its errors on a built-in scene of its own; void is light grey.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from eln_jax.data.simulated_errors.simulation import OPS, Simulation, simulate_errors
from eln_jax.data.synthetic import SyntheticSource
from eln_jax.evaluation.panels import VOID_COLOR, make_palette

CLASSES, VOID = 6, 255
SCENES = SyntheticSource(64, (200, 240), num_classes=CLASSES, seed=3)
# Title -> scene and seed, chosen so that the error is easy to see.
DRAWN = {
    "shift_boundaries": (34, 23),
    "erode_or_dilate_class": (5, 34),
    "swap_component": (12, 4),
    "drop_object": (40, 11),
    "insert_object": (21, 22),
    "coarsen": (8, 18),
    "blotches": (21, 12),
    "all together, a quarter wrong": (34, 6),
}
CAPTIONS = ("label", "with errors", "wrong pixels")
WRONG = (222, 40, 45)


def make_errors(title: str, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes the errors of an op, or of all."""
    if title not in OPS:
        return simulate_errors(label, rng, Simulation((0.25, 0.25)), num_classes=CLASSES)
    options = {}
    if title in ("shift_boundaries", "erode_or_dilate_class"):
        options["strength"] = 2.0
    if title == "insert_object":
        options["donor"] = SCENES.read_label(2)
    return OPS[title](label, rng, num_classes=CLASSES, **options)


def pictures(title: str, scene: int, seed: int) -> list[np.ndarray]:
    """Returns label, label with errors, and the wrong pixels on the grey image."""
    colors = np.full((256, 3), VOID_COLOR, np.uint8)
    colors[:CLASSES] = make_palette(CLASSES)
    label = SCENES.read_label(scene)
    errors = make_errors(title, label, np.random.default_rng(seed))
    grey = np.repeat(SCENES.read_image(scene).mean(-1, keepdims=True), 3, -1)
    wrong = (label != errors)[..., None]
    marked = np.where(wrong, 0.2 * grey + 0.8 * np.array(WRONG), 120 + 0.45 * grey)
    return [colors[label], colors[errors], marked.astype(np.uint8)]


def draw(path: Path) -> None:
    """Lays out two ops a row, three pictures each."""
    figure = Figure(figsize=(12.4, 8.6), dpi=90, layout="constrained")
    blocks = figure.subfigures(4, 2, wspace=0.03, hspace=0.02)
    for block, (title, (scene, seed)) in zip(blocks.flat, DRAWN.items(), strict=True):
        block.suptitle(title, family="monospace" if title in OPS else None, weight="bold")
        shown = zip(block.subplots(1, 3), CAPTIONS, pictures(title, scene, seed), strict=True)
        for axis, caption, picture in shown:
            axis.imshow(picture)
            axis.set_axis_off()
            axis.set_title(caption, fontsize=9, color="dimgrey", pad=3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    # 128 colours are enough, and make a small file.
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    draw(Path(*sys.argv[1:] or [Path(__file__).parent / "images" / "simulated_errors.png"]))
