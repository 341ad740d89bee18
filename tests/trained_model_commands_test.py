"""The commands that use a trained model, on a run of a few steps."""

import errno
import hashlib
import html
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from eln_jax import configuration, evaluate, export, main, predict, review_labels
from eln_jax.data.synthetic import SyntheticSource
from eln_jax.errors import StorageError, UserError
from eln_jax.evaluation import label_review, prediction_files
from eln_jax.training import export_folder, exporting
from eln_jax.training.trained_model import open_model
from tests.tiny import QUICKSTART, tiny_overrides

FIELDS = tiny_overrides(eval__every="3", checkpoint__every="3", checkpoint__keep="3")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run through the three phases, 3 steps each."""
    workdir = tmp_path_factory.mktemp("run")
    overrides = [f"--config.{name}={value}" for name, value in FIELDS]
    assert main.main([f"--config={QUICKSTART}", f"--workdir={workdir}", *overrides]) == 0
    return workdir


@pytest.fixture(scope="module")
def scenes(run, tmp_path_factory):
    """The run's validation scenes as image files, and their labels by name."""
    config = json.loads((run / "config.json").read_text())
    ids = SyntheticSource(4, (40, 48), num_classes=6, start=1_000_000)
    folder = tmp_path_factory.mktemp("scenes")
    for i, name in enumerate(ids.ids):
        Image.fromarray(ids.read_image(i)).save(folder / f"{name}.png")
    assert config["data"]["synthetic"]["val_size"] == 4
    return folder, {name: ids.read_label(i) for i, name in enumerate(ids.ids)}


def opened(path):
    """The pixels of a picture as they are stored, and its mode."""
    with Image.open(path) as picture:
        return np.asarray(picture), picture.mode


def mean_iou_of_masks(masks, labels):
    """Another route to the mean IoU: sets of pixels, class by class, with Python's integers."""
    intersections, unions = [0] * 6, [0] * 6
    for name, label in labels.items():
        mask = opened(masks / f"{name}.png")[0]
        for c in range(6):
            truth, found = (label == c), (mask == c) & (label != 255)
            intersections[c] += int((truth & found).sum())
            unions[c] += int((truth | found).sum())
    return float(np.mean([i / u for i, u in zip(intersections, unions, strict=True) if u]))


def test_evaluation_gives_the_figures_of_the_training(run, tmp_path, capsys):
    assert evaluate.main([f"--model={run}", f"--output={tmp_path}"]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    last = json.loads((run / "summary.json").read_text())["last"]
    shared = {key.removeprefix("teacher/"): value for key, value in last.items()}
    compared = [key for key in found if key in shared and isinstance(shared[key], float)]
    assert {"mean_iou", "eln/auroc", "pseudo_label/kept", "iou/coin"} <= set(compared)
    for key in compared:
        assert found[key] == pytest.approx(shared[key], abs=1e-6), key
    assert found["network"] == "teacher"
    assert found["step"] == 9
    rows = [json.loads(line) for line in (tmp_path / "per_image.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == [f"scene_{n}" for n in range(1000000, 1000004)]
    assert [row["mean_iou"] for row in rows] == sorted(row["mean_iou"] for row in rows)
    assert "Finding the wrong pixels" in capsys.readouterr().out
    report = (tmp_path / "report.html").read_text()
    assert f"<b>{100 * found['mean_iou']:.1f} <small>%" in report
    assert "scene_1000000" in report


def test_an_evaluation_lies_in_the_run_unless_told_otherwise(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    assert evaluate.main([f"--model={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "evaluation" / "val" / "report.html").is_file()


def test_a_report_without_room_is_told_and_nothing_is_left_of_it(run, tmp_path, full):
    (tmp_path / "report.tmp").symlink_to(full)
    with pytest.raises(StorageError, match=r"report\.html cannot be written .*make room"):
        evaluate.main([f"--model={run}", f"--output={tmp_path}"])
    assert (tmp_path / "metrics.json").is_file()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("report")]


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(count, arguments):
    """Runs `evaluate` in that many processes; returns their exit codes and what they printed."""
    address = f"localhost:{free_port()}"
    place = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "eln_jax.evaluate", "--distributed", *arguments],
            env={**os.environ, **place, "JAX_PROCESS_ID": str(index), "XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        outcomes = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    codes = [process.returncode for process in started]
    return codes, [printed for printed, _ in outcomes], [complaint for _, complaint in outcomes]


def content(path):
    if path.suffix != ".zip":
        return path.read_text()
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_two_processes_evaluate_as_one(run, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    arguments = [f"--model={run}", "--config.data.synthetic.val_size=5"]
    for count, output in ((1, alone), (2, together)):
        codes, told, complaints = start(count, [*arguments, f"--output={output}"])
        assert set(codes) == {0}, complaints
    assert "with 3 of the images" in told[0]
    assert "Finding the wrong pixels" in told[0]
    assert not [line for line in told[1].splitlines() if "[Gloo]" not in line]
    for name in ("metrics.json", "per_image.jsonl", "thumbnails.zip"):
        assert content(together / name) == content(alone / name), name
    assert json.loads((together / "metrics.json").read_text())["images"] == 5


def test_an_earlier_checkpoint_and_the_student_can_be_evaluated(run, tmp_path):
    arguments = [f"--model={run}", f"--output={tmp_path}", "--checkpoint=3"]
    assert evaluate.main(arguments) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    phases = json.loads((run / "summary.json").read_text())["phases"]
    assert found["network"] == "student"
    assert found["mean_iou"] == pytest.approx(phases["supervised"]["student/mean_iou"], abs=1e-6)
    assert "eln/auroc" not in found  # it has not learned yet
    with pytest.raises(UserError, match="has no teacher"):
        evaluate.main([*arguments, "--network=teacher"])
    with pytest.raises(UserError, match="steps 3, 6, 9"):
        evaluate.main([f"--model={run}", "--checkpoint=4"])


def test_an_evaluation_of_some_images_takes_the_first_as_the_training_does(run, tmp_path):
    flags = [f"--model={run}", f"--output={tmp_path}", "--config.eval.max_images=1"]
    assert evaluate.main(flags) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["images"] == 1


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_model_card_has_figures_of_its_own_network_alone(run, tmp_path, network):
    # As a run that was killed in the middle of a line.
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "spl')
    model = open_model(copy, configuration.read_json(copy / "config.json"), network)
    figures = export._figures(copy, model)
    assert f"{network}/mean_iou" in figures
    assert ("eln/auroc" in figures) == (network == "teacher")


def test_what_was_predicted_before_is_not_predicted_again(run, scenes, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(scenes[0], folder)
    name = os.fsdecode(b"caf\xe9.png")  # from an archive of older days
    shutil.copy(folder / f"{next(iter(scenes[1]))}.png", folder / name)
    for _ in range(2):
        flags = [f"--model={run}", f"--input={folder}", f"--output={folder}", "--rank"]
        assert predict.main(flags) == 0
        found = json.loads((folder / "predictions.json").read_text())["predictions"]
        assert len(found) == 5
    assert "caf%E9.png" in (folder / "predictions.html").read_text()


def test_masks_of_ones_own_are_not_overwritten(run, scenes, tmp_path):
    own = tmp_path / "masks" / next(scenes[0].iterdir()).name
    own.parent.mkdir()
    own.write_bytes(b"drawn by hand")
    with pytest.raises(UserError, match=r"its masks come from no earlier prediction"):
        predict.main([f"--model={run}", f"--input={scenes[0]}", f"--output={tmp_path}"])
    assert own.read_bytes() == b"drawn by hand"


def test_a_prediction_that_broke_off_is_made_again_by_the_same_command(
    run, scenes, tmp_path, monkeypatch
):
    def break_off(*_):
        raise KeyboardInterrupt

    flags = [f"--model={run}", f"--input={scenes[0]}", f"--output={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(prediction_files, "heat_map", break_off)  # the mask is written by then
        with pytest.raises(KeyboardInterrupt):
            predict.main(flags)
    assert list((tmp_path / "masks").iterdir())
    assert predict.main(flags) == 0


def test_a_full_disk_ends_a_prediction_with_what_to_do(run, scenes, tmp_path, full):
    (tmp_path / "predictions.json").touch()
    (tmp_path / "masks").mkdir()
    for scene in scenes[0].iterdir():
        (tmp_path / "masks" / scene.name).symlink_to(full)
    with pytest.raises(StorageError, match=r"cannot be written .*make room") as error:
        predict.main([f"--model={run}", f"--input={scenes[0]}", f"--output={tmp_path}"])
    assert str(tmp_path) in str(error.value)


def test_predicted_masks_score_as_the_evaluation_says(run, scenes, tmp_path):
    folder, labels = scenes
    (folder / "broken.jpg").write_bytes(b"no picture")
    assert predict.main([f"--model={run}", f"--input={folder}", f"--output={tmp_path}"]) == 1
    (folder / "broken.jpg").unlink()
    last = json.loads((run / "summary.json").read_text())["last"]
    assert mean_iou_of_masks(tmp_path / "masks", labels) == pytest.approx(
        last["teacher/mean_iou"], abs=1e-12
    )
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert len(found["faults"]) == 1
    assert "broken.jpg" in found["faults"][0]
    for row in found["predictions"]:
        mask, mode = opened(tmp_path / row["mask"])
        assert mode == "P"  # colours for any viewer, ids for programs
        assert mask.shape == (40, 48)
        for picture in ("overlay", "error"):
            assert opened(tmp_path / row[picture])[0].shape == (40, 48, 3)
        assert sum(row["classes"].values()) == pytest.approx(1.0)
        for id_, share in row["classes"].items():
            assert (mask == int(id_)).mean() == pytest.approx(share)
    assert [c["name"] for c in found["classes"]][:2] == ["ground", "coin"]


def test_the_images_to_label_next_are_listed_the_worst_first(run, scenes, tmp_path, capsys):
    arguments = [f"--model={run}", f"--input={scenes[0]}", f"--output={tmp_path}", "--rank=2"]
    assert predict.main(arguments) == 0
    rows = json.loads((tmp_path / "predictions.json").read_text())["predictions"]
    worst = sorted(rows, key=lambda row: -row["predicted_wrong"])[:2]
    listed = [line.split() for line in capsys.readouterr().out.splitlines() if "scene_" in line]
    assert [line[-1] for line in listed] == [row["id"] for row in worst]


def test_the_page_of_the_predictions_shows_every_file_the_worst_first(run, scenes, tmp_path):
    """File names as people have them must reach the browser whole."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    names = ["50% größer & #1", "sub/b", "c"]
    for source, name in zip(sorted(scenes[0].iterdir()), names, strict=False):
        shutil.copy(source, folder / f"{name}.png")
    output = tmp_path / "out"
    assert predict.main([f"--model={run}", f"--input={folder}", f"--output={output}"]) == 0
    page = (output / "predictions.html").read_text()
    addresses = [unquote(address) for address in re.findall(r'(?:src|href)="([^"]*)"', page)]
    assert len(addresses) == 3 * len(names)
    assert all((output / address).is_file() for address in addresses)
    rows = json.loads((output / "predictions.json").read_text())["predictions"]
    worst = sorted(rows, key=lambda row: -row["predicted_wrong"])
    found = [html.unescape(text) for text in re.findall(r"<h3>\d+\. (.*?)</h3>", page)]
    assert found == [row["id"] for row in worst]
    assert sorted(found) == sorted(names)


def test_masks_are_reviewed_and_planted_errors_told(run, tmp_path, capsys, monkeypatch):
    # A network of nine steps doubts nothing for sure.
    monkeypatch.setattr(label_review, "_LOG_PRIOR", 0.0)
    arguments = [f"--model={run}", f"--output={tmp_path}", "--top=3"]
    assert review_labels.main(arguments) == 0
    plain = json.loads((tmp_path / "review.json").read_text())
    assert plain["split"] == "val"
    assert plain["planted"] is None
    scores = [region["score"] for region in plain["regions"]]
    assert 1 <= len(scores) <= 3
    assert scores == sorted(scores, reverse=True)
    for region in plain["regions"]:
        left, top, right, bottom = region["box"]
        assert 0 <= left < right <= 48
        assert 0 <= top < bottom <= 40
        assert region["score"] <= region["pixels"] <= (right - left) * (bottom - top)
        assert "planted" not in region
    total = sum(image["score"] for image in plain["images"])
    assert len(plain["images"]) == 4
    assert total >= sum(scores)
    page = (tmp_path / "review.html").read_text()
    assert page.count("<article") == page.count("<img") == len(scores)
    assert "http" not in page
    assert plain["regions"][0]["id"] in capsys.readouterr().out

    assert review_labels.main([*arguments, "--plant=0.5", "--split=unlabeled", "--flip"]) == 0
    planted = json.loads((tmp_path / "review.json").read_text())
    assert planted["planted"]["images"] == 8
    assert planted["planted"]["planted_images"] <= 4
    assert 0 <= planted["planted"]["image_auroc"] <= 1
    assert all(type(region["planted"]) is bool for region in planted["regions"])
    assert "Errors were planted in" in capsys.readouterr().out


RUN_ALONE = """
import sys
import jax, numpy as np
from jax import export

with open(sys.argv[1] + "/model.stablehlo", "rb") as file:
    model = export.deserialize(bytearray(file.read()))
found = jax.jit(model.call)(np.load(sys.argv[2]))
assert not any(name.startswith(("eln_jax", "flax")) for name in sys.modules)
np.savez(sys.argv[3], **found)
"""


def test_the_export_runs_alone_and_gives_the_same_as_the_run(run, scenes, tmp_path):
    exported = tmp_path / "model"
    assert export.main([f"--model={run}", f"--output={exported}"]) == 0
    folder, labels = scenes
    images = [opened(folder / f"{name}.png")[0] for name in labels]
    np.save(tmp_path / "images.npy", np.stack(images))
    program = [sys.executable, "-I", "-c", RUN_ALONE, exported]
    paths = [tmp_path / "images.npy", tmp_path / "found.npz"]
    subprocess.run([*map(str, program + paths)], check=True)
    alone = np.load(tmp_path / "found.npz")

    predict.main([f"--model={run}", f"--input={folder}", f"--output={tmp_path / 'run'}"])
    predict.main([f"--model={exported}", f"--input={folder}", f"--output={tmp_path / 'export'}"])
    for i, name in enumerate(labels):
        of_run = opened(tmp_path / "run" / "masks" / f"{name}.png")[0]
        of_export = opened(tmp_path / "export" / "masks" / f"{name}.png")[0]
        np.testing.assert_array_equal(of_export, of_run)
        assert (alone["classes"][i] == of_run).mean() >= 0.9999
        assert alone["p_wrong"][i].shape == (40, 48)
    card = (exported / "README.md").read_text()
    assert "ground, coin, wheel" in card
    assert "teacher/mean_iou" in card

    with pytest.raises(UserError, match="exists already"):
        export.main([f"--model={run}", f"--output={exported}"])
    with pytest.raises(UserError, match="there is no student"):
        evaluate.main([f"--model={exported}", "--network=student"])
    weights = exported / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="altered"):
        evaluate.main([f"--model={exported}"])


def test_an_export_without_room_leaves_nothing(run, tmp_path, monkeypatch):
    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporting, "export_program", lambda _: b"program")
    monkeypatch.setattr(exporting, "load_program", lambda _: None)
    monkeypatch.setattr(exporting, "check_program", lambda *_: 1.0)
    monkeypatch.setattr(export_folder, "_card", fill)  # the last file
    with pytest.raises(StorageError, match=r"model cannot be written .*make room"):
        export.main([f"--model={run}", f"--output={tmp_path / 'model'}"])
    assert not list(tmp_path.iterdir())


def test_the_onnx_model_runs_as_its_card_says(run, scenes, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    exported = tmp_path / "model"
    assert export.main([f"--model={run}", f"--output={exported}", "--onnx"]) == 0
    written = json.loads((exported / "model.json").read_text())["onnx_sha256"]
    model = exported / "model.onnx"
    assert hashlib.sha256(model.read_bytes()).hexdigest() == written
    script = (exported / "README.md").read_text().split("```python\n")[1].split("```")[0]

    folder, labels = scenes
    predict.main([f"--model={run}", f"--input={folder}", f"--output={tmp_path / 'run'}"])
    name = next(iter(labels))
    paths = [model, folder / f"{name}.png", tmp_path / "mask.png"]
    subprocess.run([sys.executable, "-I", "-c", script, *map(str, paths)], check=True)
    of_run = opened(tmp_path / "run" / "masks" / f"{name}.png")[0]
    assert (opened(tmp_path / "mask.png")[0] == of_run).mean() >= 0.9999


def test_without_the_extra_onnx_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "flatbuffers" or None)
    with pytest.raises(UserError, match=r"pip install 'eln_jax\[onnx\]'"):
        export.main(["--model=nowhere", "--output=nowhere", "--onnx"])


def test_several_views_change_the_prediction_and_one_does_not(run, tmp_path):
    def figures(*flags):
        evaluate.main([f"--model={run}", f"--output={tmp_path}", *flags])
        return json.loads((tmp_path / "metrics.json").read_text())

    plain, one = figures(), figures("--scales=1.0")
    assert plain == one
    averaged = figures("--tta", "--sliding")
    assert averaged["views"]["scales"] == [0.75, 1, 1.25]
    assert averaged["views"]["window"] == [32, 32]
    assert averaged["max_prob/auroc"] != plain["max_prob/auroc"]


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        (evaluate, ["--model=nowhere"], "nowhere"),
        (evaluate, ["--model={run}", "--output={run}"], "is the folder of a training"),
        (evaluate, ["--model={run}", "--output={run}/last_evaluation"], "folder of a training"),
        (evaluate, ["--model={run}", "--output={run}/config.json/x"], "lies below"),
        (predict, ["--model={run}", "--input=x", "--output={run}"], "is the folder of a training"),
        (review_labels, ["--model={run}", "--output={run}"], "is the folder of a training"),
        (evaluate, ["--model={run}", "--scales=1,x"], "--scales=1,x"),
        (evaluate, ["--model={run}", "--config.data.sorce=voc"], "Did you mean data.source"),
        (evaluate, ["--model={run}", "--split=test"], "invalid choice"),
        (evaluate, ["--model={run}", "--tta", "--scales=0.5"], "--tta sets the scales itself"),
        (
            evaluate,
            ["--model={run}", "--sliding", "--config.eval.protocol=warp"],
            "--sliding changes nothing",
        ),
        (evaluate, ["--model={run}", "--config.model.width=32"], "were trained with"),
        (evaluate, ["--model={run}", "--config.data.num_classes=7"], "were trained with"),
        (
            predict,
            ["--model={run}", "--input=x", "--output=o", "--batch_size=0"],
            "--batch_size=0",
        ),
        (predict, ["--model={run}", "--input=x", "--output=o", "--rank=-1"], "--rank=-1"),
        (predict, ["--model={run}", "--input=nowhere", "--output=o"], "no such file or folder"),
        (predict, ["--model={run}", "--input={run}/checkpoints", "--output=o"], "no image"),
        (predict, ["--model={run}", "--input=x"], "--output"),
        (review_labels, ["--model={run}"], "--output"),
        (review_labels, ["--model={run}", "--output=o", "--top=0"], "--top=0"),
        (review_labels, ["--model={run}", "--output=o", "--plant=1"], "--plant=1"),
        (review_labels, ["--model={run}", "--output=o", "--seed=-1"], "--seed=-1"),
    ],
)
def test_mistakes_are_one_sentence(run, command, arguments, words):
    with pytest.raises(UserError, match=words) as error:
        command.main([argument.format(run=run) for argument in arguments])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", '{"steps": 5}', '{"seed": "x"}', '{"sed": 1}'])
def test_a_damaged_config_is_one_sentence(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json|seed") as error:
        evaluate.main([f"--model={tmp_path}"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("command", [evaluate, review_labels])
def test_images_that_were_trained_on_are_no_validation_images(run, tmp_path, command):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "images.json"
    images = json.loads(path.read_text())
    # As if masks had been added since, and the draw of a share gave another.
    images["unlabeled"].append(images["val"].pop())
    path.write_text(json.dumps(images))
    with pytest.raises(UserError, match=r"1 of 4 validation images .* trained on .*val_list"):
        command.main([f"--model={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"])


def test_a_run_under_way_is_only_read(run, tmp_path):
    """Whatever is evaluated or predicted, nothing in the run's own files changes."""

    def state():
        return {
            path.relative_to(run): path.stat().st_mtime_ns
            for path in sorted(run.rglob("*"))
            if path.is_file()
        }

    before = state()
    evaluate.main([f"--model={run}", f"--output={tmp_path}"])
    review_labels.main([f"--model={run}", f"--output={tmp_path}"])
    assert state() == before


@pytest.mark.parametrize("name", ["evaluate", "export", "predict", "review_labels"])
def test_help_teaches_without_importing_jax(name):
    code = (
        f"import sys, eln_jax.{name} as door\n"
        "try: door.main(['--help'])\n"
        "except SystemExit as end: sys.exit(end.code or 'jax' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True
    )
    assert "examples:" in result.stdout
