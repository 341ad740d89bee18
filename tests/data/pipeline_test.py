import json
import os
import select
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from eln_jax.data.folder import open_folder
from eln_jax.data.labels import make_code
from eln_jax.data.pipeline import (
    class_frequencies,
    fingerprint,
    read_examples,
    train_stream,
)
from eln_jax.data.simulated_errors.simulation import Simulation, thin_out
from eln_jax.data.synthetic import SyntheticSource
from eln_jax.data.transforms import Augmentation
from eln_jax.errors import UnreadableFileError, UserError

STILL = Augmentation("crop", flip=0.0)
SETTINGS = {
    "batch_size": 4,
    "crop_size": (24, 20),
    "augmentation": Augmentation(),
    "seed": 5,
    "with_labels": True,
}


class Numbered:
    """Flat images whose grey and whose label are their index."""

    num_classes = 50
    ignore_label = 255

    def __init__(self, length, size=(4, 4)):
        self.ids = [str(index) for index in range(length)]
        self.class_names = tuple(self.ids)
        self.opened = []
        self._size = size

    def __len__(self):
        return len(self.ids)

    def has_label(self, index):
        return index in range(len(self.ids))

    def read_image(self, index):
        self.opened.append(index)
        return np.full((*self._size, 3), index, np.uint8)

    def read_label(self, index):
        return np.full(self._size, index, np.uint8)


def scenes(length=7):
    return SyntheticSource(length, (32, 32))


def take(stream, count, state=None):
    iterator = iter(stream)
    if state is not None:
        iterator.set_state(state)
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def assert_same(first, second):
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            assert type(one[name]) is type(two[name]) is np.ndarray
            assert one[name].dtype == two[name].dtype
            np.testing.assert_array_equal(one[name], two[name])


def shown(batches):
    return np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches]).tolist()


def still_stream(source, indices, batch_size, seed=0):
    return train_stream(
        source,
        indices,
        batch_size=batch_size,
        crop_size=(4, 4),
        augmentation=STILL,
        seed=seed,
        with_labels=False,
    )


def test_batches_have_the_promised_shapes_and_types():
    labeled = take(train_stream(scenes(), range(7), **SETTINGS), 1)[0]
    assert labeled.keys() == {"image", "label"}
    assert (labeled["image"].shape, labeled["image"].dtype) == ((4, 24, 20, 3), np.uint8)
    assert (labeled["label"].shape, labeled["label"].dtype) == ((4, 24, 20), np.uint8)
    assert np.isin(labeled["label"], [0, 1, 2, 3, 4, 5, 255]).all()


def test_labels_change_nothing_about_the_geometry():
    settings = SETTINGS | {"augmentation": Augmentation(scale_range=(0.4, 0.9))}
    labeled = take(train_stream(scenes(), range(7), **settings), 1)[0]
    settings["with_labels"] = False
    unlabeled = take(train_stream(scenes(), range(7), **settings), 1)[0]
    assert unlabeled.keys() == {"image", "inside"}
    assert (unlabeled["inside"].shape, unlabeled["inside"].dtype) == ((4, 24, 20), np.bool_)
    np.testing.assert_array_equal(labeled["image"], unlabeled["image"])
    outside = ~unlabeled["inside"]
    assert outside.any()
    assert (labeled["label"][outside] == 255).all()


def test_every_pass_shows_every_image_once_in_a_new_order():
    indices = [3, 4, 8, 9, 11, 30]
    passes = np.reshape(shown(take(still_stream(Numbered(31), indices, 3), 20)), (10, 6)).tolist()
    assert all(sorted(one) == indices for one in passes)
    assert len({tuple(one) for one in passes}) > 7


def test_order_and_views_hang_on_the_seed():
    orders = [shown(take(still_stream(Numbered(20), range(20), 4, seed), 5)) for seed in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    # Seeds that follow one another must not share their orders, shifted by a pass.
    two = shown(take(still_stream(Numbered(20), range(20), 4, 0), 10))
    assert two[20:] != orders[1]
    first, second = (
        take(train_stream(scenes(), range(7), **SETTINGS | {"seed": seed}), 1) for seed in (1, 2)
    )
    assert (first[0]["image"] != second[0]["image"]).any()


def test_an_image_looks_different_each_time():
    batches = take(train_stream(scenes(1), [0], **SETTINGS), 3)
    views = {view.tobytes() for batch in batches for view in batch["image"]}
    assert len(views) == 12


def test_fewer_images_than_a_batch_repeat():
    counts = np.bincount(shown(take(still_stream(Numbered(3), range(3), 8), 3)))
    assert counts.tolist() == [8, 8, 8]


@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_threads_change_nothing(num_threads):
    expected = take(train_stream(scenes(), range(7), **SETTINGS, num_threads=2), 6)
    stream = train_stream(scenes(), range(7), **SETTINGS, num_threads=num_threads)
    assert_same(take(stream, 6), expected)


def test_workers_change_nothing_and_a_run_resumes_with_any_number_of_them():
    def stream(num_workers):
        return train_stream(
            scenes(), range(7), **SETTINGS, num_workers=num_workers, num_threads=num_workers
        )

    expected = take(stream(0), 9)
    iterator = iter(stream(1))
    assert_same([next(iterator) for _ in range(5)], expected[:5])
    state = json.loads(json.dumps(iterator.get_state()))
    iterator.close()
    # In the middle of the third pass, and with an uneven number of batches for two workers.
    assert_same(take(stream(2), 4, state), expected[5:])


def test_resuming_is_exact_from_every_batch():
    stream = train_stream(scenes(), range(7), **SETTINGS)
    expected = take(stream, 6)
    iterator = iter(stream)
    states = []
    for _ in range(5):
        states.append(json.loads(json.dumps(iterator.get_state())))
        next(iterator)
    for start, state in enumerate(states):
        assert_same(take(stream, 6 - start, state), expected[start:])
        # Also by an iterator that has run elsewhere.
        iterator.set_state(state)
        assert_same([next(iterator)], expected[start : start + 1])
    iterator.close()
    with pytest.raises(ValueError, match="closed"):
        next(iterator)


@pytest.mark.parametrize("shard_count", [2, 4])
def test_the_shares_of_the_hosts_make_the_batch_of_one(shard_count):
    expected = take(train_stream(scenes(), range(7), **SETTINGS), 5)
    shares = [
        take(
            train_stream(
                scenes(), range(7), **SETTINGS, shard_index=index, shard_count=shard_count
            ),
            5,
        )
        for index in range(shard_count)
    ]
    joined = [
        {name: np.concatenate([share[name] for share in batch]) for name in batch[0]}
        for batch in zip(*shares, strict=True)
    ]
    assert_same(joined, expected)


@pytest.fixture
def folder(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for index in range(3):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(tmp_path / f"images/{index}.png")
        Image.fromarray(np.full((8, 8), index, np.uint8)).save(tmp_path / f"masks/{index}.png")
    return tmp_path


def test_masks_of_unlabelled_images_are_never_opened(folder):
    for path in folder.glob("masks/*"):
        path.write_bytes(b"not to be opened")
    source = open_folder(folder, make_code(3))
    take(still_stream(source, range(3), 2), 4)
    settings = SETTINGS | {"with_labels": True}
    with pytest.raises(UserError, match=r"masks.*png cannot be read"):
        take(train_stream(source, range(3), **settings), 1)


def take_one_by_one(iterator, count):
    return [next(iterator) for _ in range(count)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_others_take_the_place_of_what_cannot_be_read(folder, num_workers):
    (folder / "images/1.png").write_bytes(b"broken")
    source = open_folder(folder, make_code(3))
    settings = SETTINGS | {"augmentation": STILL, "crop_size": (8, 8)}
    iterator = iter(
        train_stream(source, range(3), **settings, num_workers=num_workers, max_unreadable=1)
    )
    batches = [next(iterator) for _ in range(6)]
    (complaint,) = iterator.complaints()
    assert "images/1.png cannot be read" in complaint
    assert iterator.complaints() == []
    iterator.close()
    # What another iterator of the stream has met is told as well: a fit may look first.
    stream = train_stream(source, range(3), **settings, max_unreadable=1)
    first, second = iter(stream), iter(stream)
    assert take_one_by_one(first, 3)
    assert second.complaints() == [complaint]
    first.close()
    # The images are flat, of the grey of their index.
    seen = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])
    assert set(seen) == {0, 2}
    assert [set(batch) for batch in batches] == [{"image", "label"}] * 6
    alone = iter(train_stream(source, range(3), **settings, max_unreadable=1))
    for batch in batches:
        np.testing.assert_array_equal(next(alone)["image"], batch["image"])
    alone.close()


def test_simulated_errors_come_beside_the_label():
    simulation = Simulation((0.2, 0.2), ("swap_component", "coarsen", "blotches"))
    settings = SETTINGS | {"crop_size": (64, 65)}
    plain = take(train_stream(scenes(), range(7), **settings), 3)
    batches = take(train_stream(scenes(), range(7), **settings, simulation=simulation), 3)
    for batch, without in zip(batches, plain, strict=True):
        simulated = batch.pop("simulated")
        assert (simulated.shape, simulated.dtype) == ((4, 16, 17), np.uint8)
        label = np.stack([thin_out(one, 4) for one in batch["label"]])
        valid = label != 255
        np.testing.assert_array_equal(simulated[~valid], 255)
        wrong = (simulated != label)[valid].mean()
        assert 0.15 < wrong < 0.25
        assert_same([batch], [without])  # whether errors are made changes nothing else


@pytest.mark.parametrize("num_threads", [0, 3])
def test_objects_are_lent_by_every_other_labelled_image_and_by_no_unlabelled(num_threads):
    """An image is flat, with a square of its own id on it."""

    class Squares(Numbered):
        def __init__(self):
            super().__init__(12, (32, 32))
            self.read = set()

        def read_label(self, index):
            self.read.add(index)
            label = np.zeros((32, 32), np.uint8)
            label[8:20, 8:20] = index + 1
            return label

    chosen = [1, 4, 6, 9]
    settings = SETTINGS | {"augmentation": STILL, "crop_size": (32, 32), "num_threads": num_threads}
    simulation = Simulation((0.1, 0.1), ("insert_object",), stride=1)
    runs = []
    for _ in range(2):
        source = Squares()
        runs.append(take(train_stream(source, chosen, **settings, simulation=simulation), 12))
        assert source.read == set(chosen)
    assert_same(*runs)
    lent = {index: set() for index in chosen}
    for batch in runs[0]:
        for label, simulated in zip(batch["label"], batch["simulated"], strict=True):
            lent[int(label.max()) - 1] |= set((simulated[simulated != label] - 1).tolist())
    assert lent == {index: set(chosen) - {index} for index in chosen}


def test_who_cannot_lend_an_object_is_passed_over(folder):
    (folder / "masks/1.png").write_bytes(b"broken")
    source = open_folder(folder, make_code(3))
    wanted = Simulation((0.2, 0.2), ("insert_object", "blotches"))
    settings = SETTINGS | {"augmentation": STILL, "crop_size": (32, 32)}
    for indices in ([0, 2], [0, 1, 2], [2]):  # without a fault, with one, and nobody to lend
        iterator = iter(
            train_stream(source, indices, **settings, simulation=wanted, max_unreadable=1)
        )
        batches = [next(iterator) for _ in range(4)]
        assert len(iterator.complaints()) == (1 in indices)
        iterator.close()
        for batch in batches:
            for spoiled, label in zip(batch["simulated"], batch["label"], strict=True):
                assert (spoiled != thin_out(label, 4)).any()


def test_more_than_so_many_end_the_stream(folder):
    source = open_folder(folder, make_code(3))
    for name in ("0", "1"):
        (folder / f"images/{name}.png").unlink()
    with pytest.raises(
        UserError,
        match=r"^2 training image\(s\) could not be read, more than data\.max_unreadable=1 allows, "
        r"the last because image .*images/[01]\.png cannot be read .* -m eln_jax\.check_data",
    ):
        take(train_stream(source, range(3), **SETTINGS, max_unreadable=1), 9)
    (folder / "images/2.png").unlink()
    with pytest.raises(
        UserError,
        match=r"^most .*: [1-3] of 3 were tried and none .*\.png cannot be read .*\.check_data",
    ):
        take(train_stream(source, range(3), **SETTINGS, max_unreadable=10), 1)


def test_a_wrong_label_is_no_damage_and_stops_at_once(folder):
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(folder / "masks/1.png")
    source = open_folder(folder, make_code(3))
    with pytest.raises(UserError, match="holds the label 9"):
        take(train_stream(source, range(3), **SETTINGS, max_unreadable=10), 2)


def test_a_worker_names_the_file_that_it_cannot_read(folder):
    (folder / "images/1.png").write_bytes(b"broken")
    source = open_folder(folder, make_code(3))
    with pytest.raises(UserError, match=r"1\.png cannot be read"):
        take(train_stream(source, [1], **SETTINGS, num_workers=1), 1)


def test_nothing_to_train_on_and_uneven_shares_are_refused():
    with pytest.raises(UserError, match="no images to train on"):
        train_stream(scenes(), [], **SETTINGS)
    with pytest.raises(UserError, match="batch size 4 cannot be divided among 3"):
        train_stream(scenes(), range(7), **SETTINGS, shard_count=3)
    with pytest.raises(UserError, match="batch size 0"):
        train_stream(scenes(), range(7), **SETTINGS | {"batch_size": 0})


def test_the_fingerprint_outlives_a_move_but_no_other_labels(folder):
    def of(root, **settings):
        source = open_folder(root, make_code(3, **settings))
        return fingerprint(source, range(3), **SETTINGS)

    base = of(folder)
    assert json.loads(json.dumps(base)) == base
    assert of(folder, void_labels=(7,)) != base
    moved = folder.rename(folder.with_name("moved"))
    assert of(moved) == base


def test_the_fingerprint_is_plain_and_tells_settings_apart():
    base = fingerprint(scenes(), range(7), **SETTINGS)
    assert json.loads(json.dumps(base)) == base
    assert fingerprint(scenes(9), range(7), **SETTINGS) == base
    changes = (
        {"batch_size": 8},
        {"crop_size": (20, 24)},
        {"augmentation": Augmentation("warp")},
        {"augmentation": Augmentation(scale_range=(0.5, 1.5))},
        {"augmentation": Augmentation(flip=0.1)},
        {"seed": 6},
        {"with_labels": False},
    )
    prints = [fingerprint(scenes(), range(7), **SETTINGS | change) for change in changes]
    prints.append(fingerprint(scenes(), range(6), **SETTINGS))
    prints.append(fingerprint(SyntheticSource(7, (32, 32), seed=1), range(7), **SETTINGS))
    prints.append(fingerprint(scenes(), [1, 0, 2, 3, 4, 5, 6], **SETTINGS))
    assert len({json.dumps(one) for one in (base, *prints)}) == len(prints) + 1


PARENT = """
import multiprocessing
from eln_jax.data.pipeline import train_stream
from eln_jax.data.synthetic import SyntheticSource
from eln_jax.data.transforms import Augmentation

if __name__ == "__main__":
    iterator = iter(train_stream(
        SyntheticSource(4, (32, 32)), range(4), batch_size=2, crop_size=(32, 32),
        augmentation=Augmentation(), seed=0, with_labels=True, num_workers=1))
    next(iterator)
    print(multiprocessing.active_children()[0].pid, flush=True)
    input()
    for _ in range(50):  # more than are made ahead
        next(iterator)
    print("went on", flush=True)
"""


def start_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def test_workers_leave_signals_to_their_parent(tmp_path):
    with start_parent(tmp_path) as parent:
        assert parent.stdout is not None
        os.kill(int(parent.stdout.readline()), signal.SIGTERM)
        assert parent.communicate("\n", timeout=60)[0] == "went on\n"


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for a foreign process by pidfd")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    with start_parent(tmp_path) as parent:
        assert parent.stdout is not None
        worker = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.send_signal(signal.SIGKILL)
            # A pidfd becomes readable when its process ends.
            assert select.select([worker], [], [], 20)[0]
        finally:
            os.close(worker)


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_examples_come_in_order_at_their_own_size(num_threads):
    source = SyntheticSource(6, (20, 30))
    indices = [4, 0, 5, 1]
    examples = list(read_examples(source, indices, num_threads))
    assert [example["id"] for example in examples] == [source.ids[index] for index in indices]
    for index, example in zip(indices, examples, strict=True):
        np.testing.assert_array_equal(example["image"], source.read_image(index))
        np.testing.assert_array_equal(example["label"], source.read_label(index))
    assert list(read_examples(source, [], num_threads)) == []


def test_reading_ahead_is_bounded_and_stops_with_the_reader():
    source = Numbered(50)
    examples = read_examples(source, range(50), num_threads=2)
    next(examples)
    next(examples)
    # Two given, and no more than the two threads' own and one to give.
    assert len(source.opened) <= 5
    examples.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("read-examples")]


def test_an_example_without_a_label_is_named(folder):
    (folder / "masks/1.png").unlink()
    with pytest.raises(UserError, match=r"1\.png has no mask"):
        list(read_examples(open_folder(folder, make_code(3)), range(3)))


def test_class_frequencies_are_counted_by_hand(folder):
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :2] = 255
    mask[0, 4:] = 2
    Image.fromarray(mask).save(folder / "masks/0.png")
    source = open_folder(folder, make_code(4))
    found = class_frequencies(source, [0, 1])
    np.testing.assert_allclose(found, np.array([44, 64, 4, 0]) / 112, rtol=1e-12)
    assert found.dtype == np.float64
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(folder / "masks/2.png")
    with pytest.raises(UserError, match=r"every pixel .* is void"):
        class_frequencies(source, [2])
    (folder / "masks/1.png").write_bytes(b"no picture")
    np.testing.assert_array_equal(class_frequencies(source, [0, 1]), class_frequencies(source, [0]))
    with pytest.raises(UnreadableFileError, match=r"1\.png"):
        class_frequencies(source, [1, 1])
