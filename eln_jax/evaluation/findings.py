"""What an evaluation leaves on disk: figures, a row an image, and small pictures of every image.

In a folder:

    metrics.json      what was evaluated and how, all figures, "confusion_matrix" (pixels by true
                      and by predicted class) and "risk_coverage" (error rate of the pixels kept,
                      by detector, and the "coverage" it belongs to)
    per_image.jsonl   a row an image, the worst first
    thumbnails.zip    ids.json, and of the n-th id n/image.jpg, n/label.png, n/prediction.png and,
                      with an ELN, n/p_wrong.jpg; class ids in grey
"""

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from eln_jax.evaluation import metrics
from eln_jax.evaluation.detection import accuracy_at_coverage
from eln_jax.evaluation.inference import Predictor
from eln_jax.evaluation.maps import PixelMaps
from eln_jax.evaluation.scoring import EvaluationResult
from eln_jax.output import write_whole

_BOX = 240  # the longer side of a small picture, in pixels; smaller images stay as they are
_COVERAGES = np.arange(1, 101) / 100
METRICS, PER_IMAGE, _THUMBNAILS = "metrics.json", "per_image.jsonl", "thumbnails.zip"


class Findings(NamedTuple):
    """An evaluation read back.

    Attributes:
        metrics: what `metrics.json` holds.
        images: rows of the images, the worst first.
        thumbnails: image id -> name -> pixels, uint8 [height, width, 3] or [height, width].
    """

    metrics: dict[str, Any]
    images: list[dict[str, Any]]
    thumbnails: Mapping[str, dict[str, np.ndarray]]


class Collector:
    """Notes what is worth keeping of every image while `scoring.evaluate` goes through them.

    Attributes:
        images: a row an image: "id", "mean_iou" over the classes in label or prediction,
            "pixel_accuracy", "wrong" (share of wrong pixels) and, with an ELN, "predicted_wrong"
            (mean of its P(wrong)); nan where one is undefined.
    """

    def __init__(self, ignore_label: int):
        self.images: list[dict[str, Any]] = []
        self._ignore_label = ignore_label
        self._pictures: list[dict[str, bytes]] = []

    def add(
        self,
        example: Mapping[str, Any],
        maps: PixelMaps,
        label: np.ndarray,
        result: EvaluationResult,
    ) -> None:
        """Takes an image; arguments as `scoring.OnImage` has them."""
        self._pictures.append({})
        accuracy = metrics.pixel_accuracy(result.confusion)
        row = {
            "id": example["id"],
            "mean_iou": metrics.mean_iou(result.confusion),
            "pixel_accuracy": accuracy,
            "wrong": 1.0 - accuracy,
        }
        if maps.p_right is not None:
            inside = label != self._ignore_label
            p_wrong = 1.0 - maps.p_right
            row["predicted_wrong"] = float(p_wrong[inside].mean()) if inside.any() else math.nan
            self._keep("p_wrong", np.round(255 * p_wrong).astype(np.uint8), smooth=True)
        # The mask's size: a warped image is shown as it was judged.
        image = Image.fromarray(example["image"]).resize(label.shape[::-1])
        self._keep("image", np.asarray(image), smooth=True)
        self._keep("label", label.astype(np.uint8))
        self._keep("prediction", maps.prediction)
        self.images.append(row)

    def _keep(self, name: str, pixels: np.ndarray, *, smooth: bool = False) -> None:
        picture, file = Image.fromarray(pixels), BytesIO()
        scale = min(1.0, _BOX / max(picture.size))
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        resampling = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
        picture = picture if picture.size == size else picture.resize(size, resampling)
        kind = "jpg" if smooth else "png"
        picture.save(file, "JPEG" if smooth else "PNG", **({"quality": 85} if smooth else {}))
        self._pictures[-1][f"{name}.{kind}"] = file.getvalue()

    @classmethod
    def merged(cls, parts: Sequence["Collector"]) -> "Collector":
        """Of processes that took turns: the first image from the first, and so on."""
        whole = cls(parts[0]._ignore_label)
        whole.images = in_turn([part.images for part in parts])
        whole._pictures = in_turn([part._pictures for part in parts])
        return whole

    def write(
        self,
        folder: Path,
        head: Mapping[str, Any],
        figures: Mapping[str, float],
        result: EvaluationResult,
    ) -> None:
        """Writes the files, each in one move.

        Args:
            folder: made if absent.
            head: of `header`.
            figures: by metric key; nan where one is undefined.
            result: the counts of all images.
        """
        folder.mkdir(parents=True, exist_ok=True)
        values = {**head, **_defined(figures), "confusion_matrix": result.confusion.tolist()}
        values["risk_coverage"] = risk_coverage_points(result)
        write_whole(folder / METRICS, (json.dumps(values, indent=2) + "\n").encode())
        rows = sorted(self.images, key=lambda row: (math.isnan(row["mean_iou"]), row["mean_iou"]))
        text = "\n".join(json.dumps(_defined(row)) for row in rows) + "\n"
        write_whole(folder / PER_IMAGE, text.encode())
        file = BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("ids.json", json.dumps([row["id"] for row in self.images]))
            for number, pictures in enumerate(self._pictures):
                for name, content in pictures.items():
                    archive.writestr(f"{number}/{name}", content)
        write_whole(folder / _THUMBNAILS, file.getvalue())


def in_turn(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """Joins lists by taking from each in turn; undoes `whole[i :: len(parts)]`."""
    total = sum(map(len, parts))
    return [parts[i % len(parts)][i // len(parts)] for i in range(total)]


def header(
    predictor: Predictor,
    *,
    network: str,
    step: int | None,
    split: str,
    images: int,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """What was evaluated and how, as `metrics.json` begins with it."""
    views = predictor.views
    protocol = "original" if predictor.warp_size is None else "warp"
    return {
        "network": network,
        "step": step,
        "split": split,
        "images": images,
        "views": {"scales": views.scales, "flip": views.flip, "window": views.window}
        | {"protocol": protocol},
        "class_names": class_names,
    }


def risk_coverage_points(result: EvaluationResult) -> dict[str, list[float]]:
    """The share of wrong pixels among the best-scored 1, 2, ... 100 %, by detector."""
    points = {
        name: (1.0 - accuracy_at_coverage(histogram, _COVERAGES.tolist())).tolist()
        for name, histogram in result.histograms.items()
        if histogram.counts.any()
    }
    return {"coverage": _COVERAGES.tolist(), **points} if points else {}


def read(folder: Path) -> Findings | None:
    """Reads what `Collector.write` wrote; None where there is nothing.

    Raises:
        OSError, ValueError, zipfile.BadZipFile: a file cannot be read.
    """
    if not (folder / _THUMBNAILS).is_file():
        return None
    values = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    lines = (folder / PER_IMAGE).read_text(encoding="utf-8").splitlines()
    return Findings(values, [json.loads(line) for line in lines], _Thumbnails(folder / _THUMBNAILS))


class _Thumbnails(Mapping[str, dict[str, np.ndarray]]):
    """Opens an image's pictures when they are asked for."""

    def __init__(self, path: Path):
        self._path = path
        with zipfile.ZipFile(path) as archive:
            self._numbers = {id_: n for n, id_ in enumerate(json.loads(archive.read("ids.json")))}
            self._names: dict[str, list[str]] = {}
            for name in archive.namelist():
                self._names.setdefault(name.partition("/")[0], []).append(name)

    def __getitem__(self, image_id: str) -> dict[str, np.ndarray]:
        names = self._names[str(self._numbers[image_id])]
        with zipfile.ZipFile(self._path) as archive:
            return {
                Path(name).stem: np.asarray(Image.open(BytesIO(archive.read(name))))
                for name in names
            }

    def __iter__(self):
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def _defined(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no nan: what is undefined is null."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in values.items()
    }
