"""What a prediction leaves on disk: a mask, an overlay, an error map, and a row of figures."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from eln_jax.data.decoding import IMAGE_SUFFIXES, decode_image
from eln_jax.errors import UserError
from eln_jax.evaluation.maps import PixelMaps
from eln_jax.evaluation.panels import colorize, heat_map
from eln_jax.evaluation.prediction_page import PAGE
from eln_jax.html_page import make_document

SUMMARY = "predictions.json"
_OVERLAY_OPACITY = 0.55
_JPEG_QUALITY = 90


class ImageFile(NamedTuple):
    """An image to predict, and the name, without a suffix, of what is written for it."""

    path: Path
    name: str


_FOLDERS = ("masks", "overlays", "errors")


def list_images(path: Path, output: Path | None = None) -> list[ImageFile]:
    """Lists an image, or all images below a folder in the order of their names.

    The name of an image is its path below the folder without the suffix; where two would share one,
    with it. What an earlier prediction has written below `output` is left out.

    Raises:
        UserError: there is no such file or folder, or the folder holds no image.
    """
    if path.is_file():
        return [ImageFile(path, path.stem)]
    if not path.is_dir():
        raise UserError(
            f"{path}: there is no such file or folder; give --input an image or a folder."
        )
    written = [(output / name).absolute() for name in _FOLDERS] if output else []
    found = sorted(
        below
        for below in path.rglob("*")
        if below.suffix.lower() in IMAGE_SUFFIXES
        and below.is_file()
        and not any(part.startswith(".") for part in below.relative_to(path).parts)
        and not any(below.absolute().is_relative_to(folder) for folder in written)
    )
    if not found:
        kinds = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
        raise UserError(f"{path}: there is no image in this folder ({kinds}).")
    stems = [str(below.relative_to(path).with_suffix("")) for below in found]
    times = Counter(stems)
    return [
        ImageFile(below, str(below.relative_to(path)) if times[stem] > 1 else stem)
        for below, stem in zip(found, stems, strict=True)
    ]


def check_output(output: Path) -> None:
    """Refuses a folder whose masks may be somebody's work, such as the root of a data set.

    Raises:
        UserError: it holds a folder that would be written to, and nothing of an earlier prediction.
    """
    there = [name for name in _FOLDERS if (output / name).exists()]
    if there and not _is_of_a_prediction(output):
        raise UserError(
            f"--output={output}: its {' and '.join(there)} come from no earlier prediction and "
            "would be overwritten; name another folder, or move them away."
        )


def begin(output: Path) -> None:
    """Makes the folder, and what tells `check_output` whose it is if the prediction breaks off."""
    output.mkdir(parents=True, exist_ok=True)
    if not _is_of_a_prediction(output):
        words = "<p>This prediction is under way, or was broken off.</p>"
        (output / PAGE).write_text(make_document("Predictions", [words]), encoding="utf-8")


def _is_of_a_prediction(output: Path) -> bool:
    return any((output / name).is_file() for name in (SUMMARY, PAGE))


def read_images(
    files: Iterable[ImageFile], faults: list[str], num_threads: int = 2
) -> Iterator[dict[str, Any]]:
    """Reads images a few ahead; one that cannot be read is left out and told in `faults`.

    Yields:
        "id", and "image" uint8 [height, width, 3], upright.
    """

    def read(file: ImageFile) -> dict[str, Any] | str:
        try:
            return {"id": file.name, "image": decode_image(file.path)}
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(num_threads) as pool:
        waiting, files = [], iter(files)
        while True:
            while len(waiting) <= num_threads and (file := next(files, None)) is not None:
                waiting.append(pool.submit(read, file))
            if not waiting:
                return
            example = waiting.pop(0).result()
            if isinstance(example, str):
                faults.append(example)
            else:
                yield example


class Writer:
    """Writes the files of one prediction after another into a folder."""

    def __init__(self, output: Path, palette: np.ndarray, ids: Sequence[int] = ()):
        """Makes nothing yet.

        Args:
            output: folder; masks/, overlays/ and errors/ are made in it.
            palette: uint8 [num_classes, 3].
            ids: what stands for each class in the masks; empty: 0, 1, 2, ...
        """
        self._output, self._palette = output, palette
        self._ids = np.array(ids or range(len(palette)), np.uint8)
        table = np.zeros((256, 3), np.uint8)
        table[self._ids] = palette
        self._table = table.reshape(-1).tolist()

    def write(self, name: str, image: np.ndarray, maps: PixelMaps) -> dict[str, Any]:
        """Writes mask, overlay and, with an ELN, error map.

        Returns:
            "id", the files below the output folder, "confidence" (mean maximum probability),
            "predicted_wrong" (mean of the ELN's P(wrong); without an ELN, of 1 - the maximum
            probability) and "classes" (share of pixels by class id of those that occur).
        """
        mask = Image.fromarray(self._ids[maps.prediction])
        mask.putpalette(self._table)
        colors = colorize(maps.prediction, self._palette).astype(np.float32)
        overlay = image + _OVERLAY_OPACITY * (colors - image)
        files = {
            "mask": self._save(mask, "masks", f"{name}.png", optimize=False),
            "overlay": self._save(
                Image.fromarray(overlay.round().astype(np.uint8)),
                "overlays",
                f"{name}.jpg",
                quality=_JPEG_QUALITY,
            ),
        }
        confidence = float(maps.max_prob.mean())
        wrong = 1.0 - confidence
        if maps.p_right is not None:
            picture = Image.fromarray(heat_map(1.0 - maps.p_right))
            files["error"] = self._save(picture, "errors", f"{name}.png")
            wrong = float(1.0 - maps.p_right.mean())
        counts = np.bincount(maps.prediction.reshape(-1), minlength=len(self._ids))
        shares = counts / counts.sum()
        return {
            "id": name,
            **files,
            "confidence": confidence,
            "predicted_wrong": wrong,
            "classes": {str(self._ids[i]): float(shares[i]) for i in np.flatnonzero(counts)},
        }

    def _save(self, picture: Image.Image, folder: str, name: str, **options: Any) -> str:
        path = self._output / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, **options)
        return f"{folder}/{name}"
