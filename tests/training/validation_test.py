"""A validation pass on two hand-made images and networks whose every pixel is known.

The networks read their answers off the image: red above 128 is class 1, blue above 128 makes that
sure, green above 128 makes the ELN believe in it. A student's weight of -1 turns its answers round.
Of an image's 32 columns (all rows are alike):

    column       0 to 7   8 to 11   12, 13   14, 15   16 to 30   31
    truth          0         1         1        1         1      void
    red            0         0         0        0         1       1
    blue (sure)    0         1         1        0         1       1
    green (ELN)    1         0         1        1         1       0
"""

import contextlib
import json
import signal
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eln_jax.method.state import TrainState
from eln_jax.training import sharding, validation
from eln_jax.training.interruption import StopRequest
from eln_jax.training.logging import MetricsLogger, Progress
from eln_jax.training.networks import EvaluationNetworks
from tests.tiny import tiny_config

TRUTH = np.repeat([0, 1, 255], [8, 23, 1])
COLOURS = np.stack(
    [
        np.repeat([0, 1], [16, 16]),
        np.repeat([1, 0, 1, 0], [8, 4, 19, 1]),
        np.repeat([0, 1, 0, 1], [8, 6, 2, 16]),
    ],
    axis=-1,
)


class Scenes:
    """Copies of the hand-made image, `scale` times as large."""

    ids = ("first", "second")
    class_names = ("sky", "car")
    num_classes = 2
    ignore_label = 255

    def __init__(self, scale=1, truth=TRUTH):
        self.scale, self.truth = scale, truth

    def read_image(self, index):
        assert index in (0, 1)
        image = np.broadcast_to(255 * COLOURS, (32, 32, 3)).astype(np.uint8)
        return image.repeat(self.scale, 0).repeat(self.scale, 1)

    def read_label(self, index):
        assert index in (0, 1)
        label = np.broadcast_to(self.truth, (32, 32)).astype(np.uint8)
        return label.repeat(self.scale, 0).repeat(self.scale, 1)


def network(variables, image):
    side, sure, _ = jnp.moveaxis(jnp.where(image > 128, 1.0, 0.0), -1, 0)[jnp.array([0, 2, 1])]
    logit = (2 * side - 1) * (1 + 2 * sure) * variables["network"]["params"]["sign"]
    return jnp.stack([jnp.zeros_like(logit), logit], -1), None


def network_with_eln(variables, image):
    belief = jnp.where(image[..., 1] > 128, 4.0, -4.0) * variables["eln"]["params"]
    return network(variables, image)[0], belief


class Pictures:
    """Stands for TensorBoard."""

    def __init__(self):
        self.shown = []

    def images(self, step, pictures):
        self.shown.append((step, pictures))


class Words(Progress):
    """A display that keeps what it was told."""

    def __init__(self):
        super().__init__()
        self.said = []

    def status(self, text):
        self.said.append(text)


def state_at(step, student=1.0, teacher=1.0):
    params = {"student": {"sign": jnp.float32(student)}, "eln": jnp.float32(1.0)}
    stats = {"student": {}, "eln": {}}
    average = {"params": {"sign": jnp.float32(teacher)}, "batch_stats": {}}
    return TrainState(jnp.int32(step), params, stats, average, {})


def validated(workdir, phase, *, source=None, state=None, logger=None, display=None, **changes):
    """Figures of a pass over the two scenes."""
    source = Scenes() if source is None else source
    data = SimpleNamespace(train=source, val=source, partition=SimpleNamespace(val=(0, 1)))
    parts = SimpleNamespace(
        config=tiny_config(data__num_classes="2", **changes),
        data=data,
        programs=SimpleNamespace(mesh=sharding.make_mesh()),
        evaluation=EvaluationNetworks(network, network, network_with_eln, network, (0, 0, 0)),
    )
    with StopRequest() as stop:
        return validation.validate(
            parts,
            state_at(7) if state is None else state,
            phase,
            workdir,
            Pictures() if logger is None else logger,
            stop,
            Progress() if display is None else display,
        )


def test_the_first_phase_judges_the_student_alone(tmp_path):
    figures = validated(tmp_path, "supervised")
    assert not [k for k in figures if k.startswith(("teacher/", "eln/", "pseudo_label/"))]
    assert figures["student/iou/sky"] == pytest.approx(8 / 16)  # 8 columns right, 8 too many
    assert figures["student/iou/car"] == pytest.approx(15 / 23)
    assert figures["student/mean_iou"] == pytest.approx((8 / 16 + 15 / 23) / 2)
    assert figures["student/pixel_accuracy"] == pytest.approx(23 / 31)
    assert figures["student/mean_class_accuracy"] == pytest.approx((8 / 8 + 15 / 23) / 2)


def test_the_second_phase_adds_the_elns_judgement_of_the_student(tmp_path):
    figures = validated(tmp_path, "eln")
    assert not [k for k in figures if k.startswith("teacher/")]
    # Eight columns are wrong; the ELN doubts four of them and none of the 23 that are right.
    assert figures["eln/auroc"] == pytest.approx(4 / 8 * 1 + 4 / 8 * 1 / 2)
    assert figures["eln/aupr"] == pytest.approx(4 / 8 * 1 + 4 / 8 * 8 / 31)
    # The student is sure of six wrong columns and of 15 right ones.
    below, tied = 2 / 8 * 15 / 23, 2 / 8 * 8 / 23 + 6 / 8 * 15 / 23
    assert figures["max_prob/auroc"] == pytest.approx(below + tied / 2)
    assert figures["pseudo_label/kept"] == pytest.approx(27 / 31)
    assert figures["pseudo_label/accuracy"] == pytest.approx(23 / 27)


def test_the_third_phase_scores_both_and_judges_the_teacher(tmp_path):
    figures = validated(tmp_path, "semi_supervised", state=state_at(7, student=-1.0))
    assert figures["teacher/mean_iou"] == pytest.approx((8 / 16 + 15 / 23) / 2)
    assert figures["student/iou/sky"] == 0.0
    assert figures["student/iou/car"] == pytest.approx(8 / 31)
    assert figures["pseudo_label/accuracy"] == pytest.approx(23 / 27)  # the student's: 4 / 27
    turned = validated(tmp_path, "semi_supervised", state=state_at(7, teacher=-1.0))
    assert turned["teacher/mean_iou"] == pytest.approx(figures["student/mean_iou"])
    assert turned["student/mean_iou"] == pytest.approx(figures["teacher/mean_iou"])
    assert turned["pseudo_label/accuracy"] == pytest.approx(4 / 27)


@pytest.mark.parametrize(
    ("gate", "threshold", "kept", "right"),
    [("none", "0", 31, 23), ("confidence", "0.9", 21, 15), ("eln", "0.99", 0, 0)],
)
def test_the_configured_gate_decides_what_is_kept(tmp_path, gate, threshold, kept, right):
    # sigmoid(3) = 0.953 where the network is sure, else sigmoid(1) = 0.731; the ELN: sigmoid(4).
    figures = validated(tmp_path, "eln", method__gate=gate, method__gate_threshold=threshold)
    assert figures["pseudo_label/kept"] == pytest.approx(kept / 31)
    expected = pytest.approx(right / kept) if kept else None  # undefined
    assert figures["pseudo_label/accuracy"] == expected


def test_an_eln_that_has_never_learned_is_not_asked(tmp_path):
    resting = {"steps__eln": "0", "method__eln_in_semi_supervised": "False"}
    figures = validated(tmp_path, "semi_supervised", method__gate="none", **resting)
    assert not [name for name in figures if name.startswith("eln/")]
    assert figures["pseudo_label/kept"] == 1.0


def test_what_is_undefined_is_none(tmp_path):
    void = Scenes(truth=np.full(32, 255))
    figures = validated(tmp_path, "semi_supervised", source=void)
    assert set(figures.values()) == {None}
    assert figures.keys() == validated(tmp_path, "semi_supervised").keys()


def test_undefined_figures_go_into_a_row(tmp_path):
    # The gate keeps nothing, so nothing is right of what is kept.
    figures = validated(tmp_path, "eln", method__gate_threshold="1.0")
    with contextlib.closing(MetricsLogger(tmp_path, tensorboard=False)) as logger:
        logger.write(7, "eln", "val", figures)
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["pseudo_label/accuracy"] is None
    assert row["pseudo_label/kept"] == 0.0


def test_warped_scenes_have_the_figures_of_the_small_ones(tmp_path):
    # Warping to the crop undoes the doubling: what it blends at edges stays on its side of 128.
    warped = validated(tmp_path, "eln", source=Scenes(scale=2), eval__protocol="warp")
    assert warped == validated(tmp_path, "eln")


def test_an_image_of_the_crops_size_is_the_same_in_both_protocols(tmp_path):
    assert validated(tmp_path, "eln", eval__protocol="warp") == validated(tmp_path, "eln")


@pytest.mark.parametrize(("limit", "seen"), [("0", 2), ("1", 1)])
def test_progress_counts_the_images_of_each_network(tmp_path, limit, seen):
    display = Words()
    validated(tmp_path, "semi_supervised", display=display, eval__max_images=limit)
    assert display.said == [
        f"evaluating the {name}: {done}"
        for name in ("student", "teacher")
        for done in range(1, seen + 1)
    ]


def panel(name, tmp_path, **kwargs):
    """The picture of a pass, from the file; checks that TensorBoard was given the same."""
    logger = Pictures()
    validated(tmp_path, logger=logger, **kwargs)
    ((step, pictures),) = logger.shown
    ((tag, shown),) = pictures.items()
    with Image.open(tmp_path / "panels" / name) as file:
        np.testing.assert_array_equal(np.asarray(file), shown)
    assert f"{tag.removeprefix('panels/')}_{step:06d}.png" == name
    return shown


def test_panels_show_the_judged_network_with_a_column_for_each_thing_known(tmp_path):
    first = panel("student_000007.png", tmp_path, phase="supervised")
    second = panel("student_000008.png", tmp_path, phase="eln", state=state_at(8))
    third = panel("teacher_000009.png", tmp_path, phase="semi_supervised", state=state_at(9))
    assert first.shape[1] < second.shape[1]  # the ELN's map and the kept pseudo-labels
    np.testing.assert_array_equal(second, third)  # of the same predictions and judgement
    names = sorted(path.name for path in (tmp_path / "panels").iterdir())
    assert names == ["student_000007.png", "student_000008.png", "teacher_000009.png"]


def test_as_many_images_are_drawn_as_wanted(tmp_path):
    both = panel("student_000007.png", tmp_path, phase="eln", log__panel_images="2")
    one = panel("student_000007.png", tmp_path, phase="eln")
    assert both.shape[0] > 1.5 * one.shape[0]


def test_without_panels_no_folder_is_made(tmp_path):
    logger = Pictures()
    validated(tmp_path, "eln", logger=logger, log__panel_images="0")
    assert not logger.shown
    assert not list(tmp_path.iterdir())


class Stopping(Progress):
    """A display that is interrupted while the teacher is judged."""

    def status(self, text):
        if text == "evaluating the teacher: 1":
            signal.raise_signal(signal.SIGTERM)


def test_an_evaluation_that_is_stopped_is_given_up(tmp_path):
    logger = Pictures()
    figures = validated(tmp_path, "semi_supervised", logger=logger, display=Stopping())
    assert figures is None
    assert not logger.shown
    assert not list(tmp_path.iterdir())


def test_the_headline_is_in_percent_and_leaves_out_what_is_undefined():
    figures = {"teacher/mean_iou": 0.5, "student/mean_iou": 0.25, "eln/auroc": None}
    text = validation.headline(figures | {"pseudo_label/kept": 0.0, "student/iou/sky": 0.125})
    assert text == "mean IoU of the student 25.0, of the teacher 50.0, pseudo-labels kept 0.0 (%)"


def test_the_headline_names_the_classes_that_the_gate_loses():
    kept = {"pseudo_label/kept/sky": 0.5, "pseudo_label/kept/pole": 0.02}
    text = validation.headline({"student/mean_iou": 0.25, **kept})
    assert text == "mean IoU of the student 25.0 (%); less than 10 % kept of pole"
