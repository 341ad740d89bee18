import contextlib
import errno
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from eln_jax import convert, evaluate, predict, review_labels
from eln_jax.configuration import read_json, to_json
from eln_jax.converted_configuration import official_configuration
from eln_jax.errors import StorageError, UserError
from eln_jax.models.segmenter import build_networks
from eln_jax.models.torch_file import read_torch_file, write_torch_file
from eln_jax.models.torch_names import flatten
from eln_jax.models.torchvision import to_torchvision
from eln_jax.models.variables import load_variables
from eln_jax.training.networks import make_networks
from eln_jax.training.trained_model import open_model
from tests.golden_weights import (
    golden_arrays,
    golden_checkpoint,
    golden_official,
    golden_variables,
)


@pytest.fixture
def folder(tmp_path):
    """A folder whose files, 400 MB each, do not outlive the test."""
    yield tmp_path
    _empty(tmp_path)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The golden checkpoint as the official code writes it, converted, and what convert printed."""
    folder = tmp_path_factory.mktemp("converted")
    optimiser = {"state": {0: {"step": np.array(3)}}, "param_groups": [{"betas": (0.9, 0.999)}]}
    others = {"epoch": 7, "scaler_state_dict": {"scale": 65536.0}}
    source, target = folder / "x.pth", folder / "converted"
    write_torch_file(source, {**others, "optimizer_state_dict": optimiser, **golden_checkpoint()})
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert convert.main([f"--input={source}", f"--output={target}"]) == 0
    source.unlink()
    yield target, printed.getvalue()
    _empty(folder)


def _empty(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


def test_official_checkpoint_there_and_back(converted, folder):
    target, printed = converted
    back = folder / "back.pth"
    assert "resnet50, 21 classes, 2 auxiliary decoders" in printed
    assert "101.6 million weights" in printed
    assert "those of voc: background, aeroplane, bicycle" in printed
    assert str(target) in printed
    variables, metadata = load_variables(target)
    ours, expected = flatten(variables), flatten(golden_official().variables)
    assert ours.keys() == expected.keys()
    assert all(np.array_equal(ours[key], expected[key]) for key in expected)
    assert metadata["encoder"] == "resnet50"
    assert metadata["source"]["epoch"] == 7

    assert convert.main([f"--input={target}", f"--output={back}"]) == 0
    again = read_torch_file(back)
    assert again.pop("epoch") == 7
    first, second = flatten(golden_checkpoint()), flatten(again)
    assert first.keys() == second.keys()
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)


def test_a_conversion_without_room_leaves_nothing(converted, folder, monkeypatch):
    def fill(path, _):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("eln_jax.models.torch_file.write_torch_file", fill)
    with pytest.raises(StorageError, match=r"back\.pth cannot be written .*make room"):
        convert.main([f"--input={converted[0]}", f"--output={folder / 'back.pth'}"])
    assert not list(folder.iterdir())


def test_a_converted_checkpoint_is_a_model_with_the_golden_outputs(converted):
    target, _ = converted
    config = read_json(target / "config.json")
    model, networks, golden = open_model(target, config), make_networks(config), golden_arrays()
    assert model.description.startswith("student of a converted checkpoint, resnet50, 21 classes")
    prediction = jax.jit(networks.student.apply)(model.variables["network"], golden["image"])
    judged = jax.jit(networks.eln.apply)(model.variables["eln"], golden["image"], golden["logits"])
    for found, name in ((prediction.logits, "logits"), (judged[..., None], "eln_logits")):
        bound = 1e-4 * np.abs(golden[name]).max()
        np.testing.assert_allclose(found, golden[name], rtol=0, atol=bound)


def test_a_converted_checkpoint_predicts(converted, folder):
    """The mask beside the golden weights on an image normalised, and logits resized, by SciPy."""
    target, _ = converted
    image = np.random.default_rng(0).integers(0, 256, (65, 97, 3), np.uint8)
    Image.fromarray(image).save(folder / "image.png")
    arguments = [f"--input={folder / 'image.png'}", f"--output={folder}", "--batch_size=1"]
    assert predict.main([f"--model={target}", *arguments]) == 0
    for main, more in ((evaluate.main, []), (review_labels.main, [f"--output={folder}"])):
        with pytest.raises(UserError, match=r"data\.root is empty.*data\.source is voc"):
            main([f"--model={target}", *more])
    with Image.open(folder / "masks" / "image.png") as picture:
        mask = np.asarray(picture)

    normal = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    student = build_networks(encoder="resnet50", output_stride=16, num_classes=21).student
    variables = golden_variables("student")
    logits = jax.jit(student.apply)(variables, normal[None].astype(np.float32)).logits[0]
    full = ndimage.zoom(logits, (65 / 17, 97 / 25, 1), order=1)  # corners aligned
    assert full.shape == (65, 97, 21)
    assert len(np.unique(mask)) > 1
    assert (full.argmax(-1) == mask).mean() >= 0.999


def test_a_deeplab_with_torchvisions_names_predicts_and_goes_back(folder):
    """The mask beside the network on an image normalised, and logits resized, by SciPy."""
    networks = build_networks(
        encoder="resnet18", output_stride=16, num_classes=3, architecture="torchvision"
    )
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(image).save(folder / "image.png")
    drawn = jax.tree.map(np.asarray, networks.student.init(jax.random.key(1), image[None] / 255.0))
    state = to_torchvision({k: {"student": v} for k, v in drawn.items()}, "resnet18", {})
    source, target, back = folder / "x.pth", folder / "converted", folder / "back.pth"
    write_torch_file(source, {"cur_itrs": 30, "model_state": state, "best_score": 0.7})
    assert convert.main([f"--input={source}", f"--output={target}"]) == 0
    assert convert.main([f"--input={target}", f"--output={back}"]) == 0
    again = read_torch_file(back)["model_state"]
    assert list(again) == list(state)
    assert all(again[key].tobytes() == state[key].tobytes() for key in state)

    arguments = [f"--input={folder / 'image.png'}", f"--output={folder}", "--batch_size=1"]
    assert predict.main([f"--model={target}", *arguments]) == 0
    with Image.open(folder / "masks" / "image.png") as picture:
        mask = np.asarray(picture)
    normal = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    logits = networks.student.apply(drawn, normal[None].astype(np.float32)).logits[0]
    # PyTorch's pixel centres: row r of the image is at (r + 1/2) / 4 - 1/2 of the map.
    rows, columns = ((np.arange(size) + 0.5) / 4 - 0.5 for size in mask.shape)
    places = np.meshgrid(rows, columns, indexing="ij")
    full = [
        ndimage.map_coordinates(logits[..., k], places, order=1, mode="nearest") for k in range(3)
    ]
    assert len(np.unique(mask)) > 1
    assert (np.argmax(full, 0) == mask).mean() >= 0.999


@pytest.mark.parametrize(
    ("num_classes", "names", "size", "offset"),
    [(21, "background, aeroplane", (505, 505), 1), (19, "road, sidewalk", (512, 1024), 0)],
)
def test_the_number_of_classes_tells_the_data_set(num_classes, names, size, offset):
    config, told = official_configuration("resnet101", "resnet34", num_classes, 2)
    assert names in told
    assert config.crop_size == size
    assert config.crop_size[0] % 8 == offset
    assert len(config.data.class_names) == num_classes


@pytest.mark.parametrize(("count", "ceilings"), [(0, ()), (1, (20.0,)), (3, (20.0, 50.0, 50.0))])
def test_a_converted_configuration_is_read_whatever_the_auxiliary_decoders(
    tmp_path, count, ceilings
):
    config, _ = official_configuration("resnet50", "resnet34", 21, count)
    assert config.method.loss_ceilings == ceilings
    (tmp_path / "config.json").write_text(to_json(config))
    assert read_json(tmp_path / "config.json").model.num_aux_decoders == count


def test_other_classes_are_listed_in_a_file_or_have_numbers(folder):
    arguments = ("resnet50", "resnet34", 2, 2)
    config, told = official_configuration(*arguments)
    assert "class 0, class 1" in told
    assert config.data.class_names == ()
    listed = folder / "classes.txt"
    listed.write_text("7 cat #800000\n9 dog #008000\n")
    config, told = official_configuration(*arguments, listed)
    assert str(listed) in told
    assert config.data.class_names == ("cat", "dog")
    assert config.data.class_ids == (7, 9)
    assert config.data.class_colors == ("#800000", "#008000")
    with pytest.raises(UserError, match="lists 2 classes, the checkpoint has 3"):
        official_configuration("resnet50", "resnet34", 3, 2, listed)


def test_mistakes_are_one_sentence(folder):
    def message(source, target):
        with pytest.raises(UserError) as error:
            convert.main([f"--input={source}", f"--output={target}"])
        return str(error.value)

    source, target = folder / "x.pth", folder / "out"
    assert "there is no such file" in message(source, target)
    write_torch_file(source, {"model": {"conv1.weight": np.zeros((1, 1, 1, 1))}})
    assert "neither an official checkpoint" in message(source, target)
    write_torch_file(source, {1: 2})
    assert "not a dict of named weights" in message(source, target)
    assert not target.exists()
    assert "becomes a folder" in message(source, folder / "y.pth")
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    assert "exists already" in message(source, target)
    assert "holds no model.json" in message(target, folder / "back.pth")
    assert "must be a new .pth file" in message(target, folder / "back")
    with pytest.raises(UserError, match="--input is a folder"):
        convert.main([f"--input={target}", "--output=x.pth", "--classes=y"])
    (target / "model.json").write_text(json.dumps({"sha256": {}}))
    (target / "model.safetensors").write_bytes(b"")
    assert "damaged" in message(target, folder / "back.pth")
    with pytest.raises(UserError, match="--output"):
        convert.main([f"--input={source}"])
