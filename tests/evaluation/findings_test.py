"""What an evaluation leaves on disk, written and read back."""

import numpy as np
import pytest

from eln_jax.evaluation import findings
from eln_jax.evaluation.findings import Collector
from eln_jax.evaluation.scoring import score_image
from tests.evaluation.samples import HEAD, collected, image_maps


def test_findings_are_read_back_as_they_were_written(tmp_path):
    found = collected(tmp_path, wrong_pixels=3)
    # Of 2 x 19 pixels that count, 10 + 10 are of class 1, three of them taken for class 0.
    assert found.metrics["confusion_matrix"] == [[18, 0], [3, 17]]
    assert found.metrics["eln/auroc"] is None
    assert found.metrics["network"] == "teacher"
    assert found.metrics["risk_coverage"]["coverage"][-1] == 1.0
    assert found.metrics["risk_coverage"]["max_prob"][-1] == pytest.approx(3 / 38)
    assert [row["id"] for row in found.images] == ["b", "a"]  # the worst first
    assert found.images[0]["wrong"] == pytest.approx(3 / 19)
    assert found.images[1]["predicted_wrong"] == pytest.approx((9 * 0.1 + 10 * 0.4) / 19, abs=1e-6)
    pictures = found.thumbnails["b"]
    assert pictures.keys() == {"image", "label", "prediction", "p_wrong"}
    assert pictures["label"][0, 0] == 1
    assert pictures["label"][3, 4] == 255
    assert pictures["prediction"][0].tolist() == [0, 0, 0, 1, 1]
    assert pictures["image"].shape == (4, 5, 3)


def test_large_images_are_kept_small_and_their_ids_whole(tmp_path):
    collector, label = Collector(255), np.zeros((300, 480), np.uint8)
    label[:, 240:] = 1
    example = {"id": "large", "image": np.zeros((300, 480, 3), np.uint8)}
    counts = score_image(image_maps(label), label, 2, 255)
    collector.add(example, image_maps(label), label, counts)
    collector.write(tmp_path, HEAD, {}, counts)
    small = findings.read(tmp_path).thumbnails["large"]["label"]
    assert small.shape == (150, 240)
    assert np.unique(small).tolist() == [0, 1]


def test_nothing_was_kept(tmp_path):
    assert findings.read(tmp_path) is None
