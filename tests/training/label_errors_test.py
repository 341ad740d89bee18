"""A student that takes each class for the next one, on flat images coloured by their class."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eln_jax.data.pipeline import train_stream
from eln_jax.data.simulated_errors.simulation import Simulation
from eln_jax.data.transforms import Augmentation
from eln_jax.method.state import TrainState
from eln_jax.training import sharding
from eln_jax.training.bookkeeping import Bookkeeping
from eln_jax.training.label_errors import measure_confusion, with_label_errors
from tests.tiny import tiny_config

CLASSES, IMAGES = 6, 10


def asked_to_stop(requested):
    return SimpleNamespace(requested=requested, agree=lambda: None)


RUNNING, STOPPED = asked_to_stop(False), asked_to_stop(True)


class Flat:
    ids = tuple(map(str, range(IMAGES)))
    num_classes, class_names, ignore_label = CLASSES, tuple("abcdef"), 255

    def __len__(self):
        return IMAGES

    def read_image(self, index):
        return np.full((40, 40, 3), 10 * (index % CLASSES), np.uint8)

    def read_label(self, index):
        label = np.full((40, 40), index % CLASSES, np.uint8)
        label[:20] = 255
        return label


def network(variables, image):
    shown = image[:, ::4, ::4, 0].astype(jnp.int32) // 10
    taken_for = (shown + variables["network"]["params"]["encoder"]) % CLASSES
    return jax.nn.one_hot(taken_for, CLASSES), None


def make_parts(**changes):
    config = tiny_config(**changes)

    def stream(simulation=None):
        return train_stream(
            Flat(),
            range(IMAGES),
            batch_size=4,
            crop_size=(32, 32),
            augmentation=Augmentation("crop"),
            seed=0,
            with_labels=True,
            simulation=simulation,
        )

    def erring(confusion):
        return stream(dataclasses.replace(Simulation((0.5, 0.5)), confusion=confusion))

    data = SimpleNamespace(
        streams={"labeled": stream()},
        partition=SimpleNamespace(labeled=tuple(range(IMAGES))),
        with_simulated_errors=erring if config.method.simulated_weight else None,
    )
    return SimpleNamespace(
        config=config,
        programs=SimpleNamespace(mesh=sharding.make_mesh()),
        data=data,
        evaluation=SimpleNamespace(network=network),
    )


def make_state():
    params = {"student": {"encoder": jnp.int32(1), "decoder": jnp.int32(0)}}
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats={"student": {}},
        teacher={},
        opt_state={},
    )


def test_pixels_of_one_pass_are_counted_without_void():
    counts = np.array(measure_confusion(make_parts(), make_state(), {"next_batch": 3}, RUNNING))
    assert (counts[np.arange(CLASSES), (np.arange(CLASSES) + 1) % CLASSES] > 0).all()
    assert np.count_nonzero(counts) == CLASSES
    # Three batches of four: all ten images, and half of each is void or cut off.
    assert 12 * 32 * 12 <= counts.sum() <= 12 * 32 * 20


def test_measuring_is_given_up_when_asked_to_stop():
    assert measure_confusion(make_parts(), make_state(), {"next_batch": 0}, STOPPED) is None


@pytest.mark.parametrize("kind", ["measured", "uniform"])
def test_batches_go_on_where_they_were_with_errors_beside_the_labels(kind):
    parts = make_parts(method__simulated_weight="0.5", data__simulated__confusion=kind)
    plain = iter(parts.data.streams["labeled"])
    expected = [next(plain) for _ in range(5)]
    plain.set_state({"next_batch": 2})
    books = Bookkeeping({}, {})
    iterator = with_label_errors(plain, parts, make_state(), books, RUNNING)
    assert (books.confusion is not None) == (kind == "measured")
    batches = [next(iterator) for _ in range(3)]
    assert iterator.get_state() == {"next_batch": 5}
    iterator.close()
    for batch, without in zip(batches, expected[2:], strict=True):
        assert batch.pop("simulated").shape == (4, 8, 8)
        for name, array in without.items():
            np.testing.assert_array_equal(batch[name], array)


def test_what_was_measured_is_not_measured_again():
    parts = make_parts(method__simulated_weight="0.5")
    kept = np.eye(CLASSES, dtype=int).tolist()
    books = Bookkeeping({}, {}, confusion=kept)
    with_label_errors(iter(parts.data.streams["labeled"]), parts, None, books, RUNNING).close()
    assert books.confusion == kept


def test_without_weight_or_time_the_plain_batches_stay():
    for parts, stop in (
        (make_parts(), RUNNING),
        (make_parts(method__simulated_weight="0.5"), STOPPED),
    ):
        iterator = iter(parts.data.streams["labeled"])
        books = Bookkeeping({}, {})
        assert with_label_errors(iterator, parts, make_state(), books, stop) is iterator
        iterator.close()
