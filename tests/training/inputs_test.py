import json

import numpy as np
import pytest
from PIL import Image

from eln_jax import configuration
from eln_jax.data import pipeline
from eln_jax.data.simulated_errors.simulation import thin_out
from eln_jax.errors import UserError
from eln_jax.training.inputs import make_inputs
from tests.configuration_test import CONFIGS
from tests.tiny import tiny_config

FOLDER = str(CONFIGS / "folder.py")


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    """Twelve images in one folder, six of them with a mask of the classes 0, 1, 2."""
    for number in range(12):
        write(tmp_path / f"images/{number:02d}.png", np.full((40, 48, 3), number))
        if number < 6:
            write(tmp_path / f"masks/{number:02d}.png", np.resize([0, 1, 2, 255], (40, 48)))
    return tmp_path


def load(root, **changes):
    overrides = {"data.root": str(root)} | {k.replace("__", "."): v for k, v in changes.items()}
    return configuration.load(FOLDER, list(overrides.items()))


def test_a_share_of_the_masked_images_validates(root):
    config = load(root, data__val_fraction="0.34")
    assert configuration.complete(config) == (
        "3 classes, found in 6 masks: class 0, class 1, class 2."
    )
    inputs = make_inputs(config)
    labeled, unlabeled, val = inputs.partition
    assert (len(labeled), len(val)) == (4, 2)
    assert set(labeled) | set(val) == set(range(6))
    assert unlabeled == tuple(range(6, 12))
    assert inputs.val is inputs.train


def test_an_id_far_from_the_others_is_told_with_the_classes(root):
    write(root / "masks/03.png", np.resize([0, 1, 2, 77], (40, 48)))
    config = load(root, data__val_fraction="0.34")
    sentence, warning = configuration.complete(config).splitlines()
    assert sentence.startswith("78 classes, found in 6 masks: class 0,")
    assert warning.startswith(
        "warning: unused ids: masks/03.png (the id 77 makes 78 classes, of which 3 to 76 occur in "
        "no mask): repaint the mask if its id is a slip, or add the id to data.void_labels"
    )
    listed = load(root, data__val_fraction="0.34", data__void_labels="(77,)")
    assert len(configuration.complete(listed).splitlines()) == 1


def test_a_list_of_validation_images_leaves_the_others_to_train(root):
    (root / "val.txt").write_text("04\n01\n")
    config = load(root, data__val_list=str(root / "val.txt"))
    configuration.complete(config)
    partition = make_inputs(config).partition
    assert set(partition.val) == {1, 4}
    assert set(partition.labeled) == {0, 2, 3, 5}


def test_a_partition_may_not_label_what_validates(root):
    (root / "val.txt").write_text("04\n")
    (root / "labeled.txt").write_text("04\n01\n")
    config = load(
        root,
        data__val_list=str(root / "val.txt"),
        data__partition=str(root / "labeled.txt"),
        data__num_classes="3",
    )
    with pytest.raises(UserError, match="both labelled and validation, such as '04'"):
        make_inputs(config)


def test_classes_of_unlabelled_images_are_not_looked_for(root):
    write(root / "masks/07.png", np.full((40, 48), 200))  # would make 201 classes
    (root / "val.txt").write_text("04\n")
    (root / "labeled.txt").write_text("00\n01\n")
    config = load(
        root, data__val_list=str(root / "val.txt"), data__partition=str(root / "labeled.txt")
    )
    configuration.complete(config)
    assert config.data.num_classes == 3


@pytest.mark.parametrize("name", ["classes.txt", "listed.txt"])
def test_a_list_of_classes_decides(root, name):
    (root / name).write_text("2 two\n0 nought\n1 void\n")
    named = {} if name == "classes.txt" else {"data__classes": str(root / name)}
    config = load(root, data__val_fraction="0.34", **named)
    assert "from" in configuration.complete(config)
    source = make_inputs(config).train
    assert source.class_names == ("two", "nought")
    np.testing.assert_array_equal(source.read_label(0)[0, :4], [1, 255, 0, 255])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__val_fraction": "0.2", "data__val_list": "a.txt"}, "not both"),
        ({"data__val_fraction": "0.2", "data__partition": "a.txt"}, "data.val_list"),
        ({"data__classes": "a.txt", "data__num_classes": "3"}, "needs data.num_classes=0"),
    ],
)
def test_contradictions_are_refused(root, changes, message):
    with pytest.raises(UserError, match=message):
        load(root, **changes)


def test_a_folder_without_splits_says_what_to_do(root):
    with pytest.raises(UserError, match=r"no split 'train' .*data\.val_fraction=0\.2"):
        configuration.complete(load(root))


def first_batch(stream):
    iterator = iter(stream)
    batch = next(iterator)
    iterator.close()
    return batch


def test_without_weight_no_errors_are_made(monkeypatch):
    monkeypatch.setattr(pipeline, "simulate_errors", None)
    inputs = make_inputs(tiny_config())
    assert inputs.with_simulated_errors is None
    assert set(first_batch(inputs.streams["labeled"])) == {"image", "label"}
    assert inputs.fingerprint["labeled"]["simulation"] is None


def test_the_configured_errors_are_made_for_the_eln_alone():
    inputs = make_inputs(
        tiny_config(
            method__simulated_weight="0.5",
            data__simulated__ops="swap_component,blotches",
            data__simulated__error_rate="(0.4, 0.4)",
        )
    )
    plain = first_batch(inputs.streams["labeled"])
    assert set(plain) == {"image", "label"}
    # By this matrix class 5 is all that others are taken for.
    confusion = np.zeros((6, 6), int)
    confusion[:, 5] = 1
    batch = first_batch(inputs.with_simulated_errors(confusion))
    for name, array in plain.items():
        np.testing.assert_array_equal(batch[name], array)
    label = np.stack([thin_out(one, 4) for one in plain["label"]])
    wrong = (batch["simulated"] != label)[label != 255]
    assert 0.3 < wrong.mean() < 0.45
    uniform = first_batch(inputs.with_simulated_errors(None))["simulated"]
    assert (batch["simulated"] == 5).sum() > (uniform == 5).sum()
    described = inputs.fingerprint["labeled"]["simulation"]
    assert described["ops"] == ["swap_component", "blotches"]
    assert json.loads(json.dumps(inputs.fingerprint)) == inputs.fingerprint


def test_other_validation_images_are_another_run(root, tmp_path):
    fingerprints = []
    for ids in (["00", "01"], ["00", "02"]):
        (tmp_path / "val.txt").write_text("\n".join(ids))
        config = load(root, data__val_list=str(tmp_path / "val.txt"), data__num_classes="3")
        fingerprints.append(make_inputs(config).fingerprint["val"])
    assert fingerprints[0]["ids_sha256"] != fingerprints[1]["ids_sha256"]
    assert fingerprints[0]["images"] == 2
