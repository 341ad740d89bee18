"""Errors planted in label maps, to measure whether a review of labels finds them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from eln_jax.data.simulated_errors.simulation import OPS
from eln_jax.evaluation.label_review import Review

# A region with at least this IoU with a planted error has found it.
HIT = 0.5
FIRST = 10
# What annotators do: take one class for another, overlook an object, draw an outline carelessly.
_KINDS = ("swap_component", "drop_object", "shift_boundaries")


class Planting:
    """Plants an error in some of the images; the same ones whenever asked."""

    def __init__(self, ids: Sequence[str], fraction: float, seed: int = 0):
        """Draws the images.

        Args:
            ids: of all images, each once.
            fraction: share of them that gets an error, in turns a class swapped for another, an
                object dropped, and outlines shifted.
            seed: of what is drawn.
        """
        order = np.random.default_rng(seed).permutation(len(ids))
        chosen = order[: max(1, round(fraction * len(ids)))].tolist()
        self._of = {
            ids[image]: (_KINDS[turn % len(_KINDS)], [seed, image])
            for turn, image in enumerate(chosen)
        }

    def plant(
        self, examples: Iterable[Mapping[str, Any]], num_classes: int, ignore_label: int
    ) -> Iterator[dict[str, Any]]:
        """Passes examples on with their "label", changed or not, and where it is: "planted"."""
        for example in examples:
            label = example["label"]
            if example["id"] in self._of:
                kind, seed = self._of[example["id"]]
                label = OPS[kind](
                    label,
                    np.random.default_rng(seed),
                    num_classes=num_classes,
                    ignore_label=ignore_label,
                )
            yield {**example, "label": label, "planted": label != example["label"]}


def planted_figures(review: Review) -> dict[str, float | int]:
    """How well a review found what was planted; nan where a figure is undefined.

    Returns:
        "planted_images" and "images", how many; "precision_at_10", the share of the first ten
        regions (of fewer, if fewer are listed) that are a planted error; "image_auroc", the
        probability that an image with a planted error scores higher than one without, ties
        counting half.
    """
    first = [(region.planted_overlap or 0.0) >= HIT for region in review.regions[:FIRST]]
    scores, planted = review.image_scores, review.planted
    gaps = scores[planted][:, None] - scores[~planted]
    return {
        "images": len(scores),
        "planted_images": int(planted.sum()),
        "precision_at_10": sum(first) / len(first) if first else math.nan,
        "image_auroc": float(((gaps > 0) + 0.5 * (gaps == 0)).mean()) if gaps.size else math.nan,
    }
