"""From images of any size to maps of the same size: the one inference core of the project.

Images are padded at the right and bottom to a multiple of `pad_multiple`, so that a data set of
many sizes needs few compilations; one compiled program (`eln_jax.evaluation.maps`) does the rest;
the padding is cut off on the host.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from eln_jax.evaluation.calibrated import Calibration
from eln_jax.evaluation.maps import SINGLE_VIEW, Network, PixelMaps, Views, pixel_maps

# Undelivered batches' worth of images that may be held while a batch of equal sizes fills up.
_WINDOW = 4
# Pixels in a batch: a network needs a few hundred bytes for each.
_MOST_PIXELS = 2**22


@dataclasses.dataclass
class _Job:
    example: Mapping[str, Any]
    padded: np.ndarray
    padded_label: np.ndarray | None
    size: tuple[int, int]
    batch: Any = None  # PixelMaps of the whole batch, maybe still being computed
    row: int = 0

    def fetch(self) -> PixelMaps:
        """Waits for the batch; returns this image's maps, cut to its size."""
        height, width = self.size
        return jax.tree.map(lambda m: np.asarray(m)[self.row, :height, :width], self.batch)


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A network, its weights, and how images are fed to it.

    Attributes:
        network: `(variables, image) -> (logits, eln_logits)` with image uint8 [batch, height,
            width, 3], logits [batch, h, w, num_classes] and eln_logits [batch, h, w] or None, at
            any stride. Programs are compiled once for each network object and shape, so pass the
            same object to every `Predictor` that differs in the weights alone.
        variables: weights and statistics, passed on to `network`.
        batch_size: images in a batch, fewer where they are large. Every batch of a shape has the
            same size (the last is filled up with repeats, which are dropped), so each shape
            compiles once.
        pad_multiple: padded heights and widths are multiples of this, plus `pad_offset`.
        pad_offset: 1 for a network trained on crops of 8n + 1 pixels, whose maps have aligned
            corners only at such sizes; else 0.
        fill: RGB of the padding; the encoder's mean colour, so that it is about 0 when normalised.
        warp_size: (height, width) to which images, and labels in `evaluate`, are warped instead of
            being padded, as the official code evaluates VOC. None: original size.
        sharding: how a batch is split over devices; None: on the default device.
        views: scales, mirror image and windows whose predictions are averaged.
        doubt_labels: examples have a "label", and the maps `label_doubt`.
        calibration: what gives the maps `calibrated`.
    """

    network: Network
    variables: Any
    batch_size: int = 1
    pad_multiple: int = 32
    pad_offset: int = 0
    fill: tuple[int, int, int] = (124, 116, 104)
    warp_size: tuple[int, int] | None = None
    sharding: jax.sharding.Sharding | None = None
    views: Views = SINGLE_VIEW
    doubt_labels: bool = False
    calibration: Calibration | None = None

    def predict(self, image: np.ndarray) -> PixelMaps:
        """Predicts one image, uint8 [height, width, 3]: NumPy maps [height, width]."""
        ((_, maps),) = self.stream([{"image": image}])
        return maps

    def stream(
        self, examples: Iterable[Mapping[str, Any]]
    ) -> Iterator[tuple[Mapping[str, Any], PixelMaps]]:
        """Predicts examples {"image": uint8 [height, width, 3], ...} in order.

        Images of equal padded size share a batch. One batch is computed while the caller works on
        the one before; about five batches of images are held at most.

        Yields:
            Each example with its maps, NumPy [height, width] (or `warp_size`).
        """
        waiting: dict[tuple[int, ...], list[_Job]] = {}
        jobs: collections.deque[_Job] = collections.deque()
        newest: PixelMaps | None = None
        for example in examples:
            job = self._prepare(example)
            jobs.append(job)
            alike = waiting.setdefault(job.padded.shape, [])
            alike.append(job)
            if len(alike) == self._batch_size_for(job.padded):
                newest = self._dispatch(waiting.pop(job.padded.shape))
            elif len(jobs) > _WINDOW * self.batch_size and jobs[0].batch is None:
                newest = self._dispatch(waiting.pop(jobs[0].padded.shape))
            while jobs and jobs[0].batch is not None and jobs[0].batch is not newest:
                done = jobs.popleft()
                yield done.example, done.fetch()
        for alike in waiting.values():
            self._dispatch(alike)
        for done in jobs:
            yield done.example, done.fetch()

    def _prepare(self, example: Mapping[str, Any]) -> _Job:
        image = example["image"]
        label = example["label"] if self.doubt_labels else None
        if self.warp_size is not None:
            warped = None if label is None else self.warp_label(label)
            return _Job(example, self.warp_image(image), warped, self.warp_size)
        height, width = image.shape[:2]
        rows, columns = (self._padded(side) for side in image.shape[:2])
        padded = np.empty((rows, columns, 3), np.uint8)
        padded[:height, :width] = image
        padded[height:] = padded[:height, width:] = np.asarray(self.fill, np.uint8)
        if label is not None:  # the padding's labels are cut off with it, whatever they are
            label = np.pad(label, ((0, rows - height), (0, columns - width)))
        return _Job(example, padded, label, (height, width))

    def _batch_size_for(self, padded: np.ndarray) -> int:
        """Of large images fewer: the memory that a batch needs grows with its pixels."""
        least = 1 if self.sharding is None else len(self.sharding.device_set)
        pixels = padded.shape[0] * padded.shape[1]
        fitting = _MOST_PIXELS // pixels // least * least
        return max(least, min(self.batch_size, fitting))

    def _padded(self, side: int) -> int:
        whole = -(-(side - self.pad_offset) // self.pad_multiple)
        return max(whole, 1) * self.pad_multiple + self.pad_offset

    def _dispatch(self, jobs: list[_Job]) -> PixelMaps:
        """Starts the computation of a batch without waiting for it."""
        filled = jobs + jobs[-1:] * (self._batch_size_for(jobs[0].padded) - len(jobs))
        image = self._put([job.padded for job in filled])
        label = self._put([job.padded_label for job in filled]) if self.doubt_labels else None
        maps = pixel_maps(
            self.network,
            self.variables,
            image,
            self.views,
            self.pad_offset,
            label,
            self.calibration,
        )
        for row, job in enumerate(jobs):
            job.batch, job.row = maps, row
        return maps

    def _put(self, arrays: Sequence[Any]) -> Any:
        batch = np.stack(arrays)
        return batch if self.sharding is None else jax.device_put(batch, self.sharding)

    def warp_image(self, image: np.ndarray) -> np.ndarray:
        """Warps an image as the network sees it; unchanged without `warp_size`."""
        if self.warp_size is None:
            return image
        return _warp(image, self.warp_size, Image.Resampling.BILINEAR)

    def warp_label(self, label: np.ndarray) -> np.ndarray:
        """Warps a label map [height, width] as the images are; unchanged without `warp_size`."""
        if self.warp_size is None:
            return label
        return _warp(label, self.warp_size, Image.Resampling.NEAREST)


def _warp(array: np.ndarray, size: tuple[int, int], resampling: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), resampling))
