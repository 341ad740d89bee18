"""The door of the benchmark: its figures hold together; how fast anything is does not matter."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eln_jax import benchmark, configuration
from eln_jax.benchmarks import data, topology
from eln_jax.benchmarks import figures as figures_module
from eln_jax.errors import UserError
from tests.tiny import QUICKSTART, tiny_overrides

ROOT = Path(__file__).parent.parent
PARTS = {"read", "decode_image", "decode_mask", "augment", "batch", "transfer"}


def run(capsys, *flags, **changes):
    """The figures on the screen, and what else was said."""
    fields = [f"--config.{name}={value}" for name, value in tiny_overrides(**changes)]
    asked = ["--what=data", f"--config={QUICKSTART}", "--seconds=0.1", *fields, *flags]
    assert benchmark.main(asked) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def check_spread(spread):
    assert set(spread) == {"min", "median"}
    assert 0 <= spread["min"] <= spread["median"] < 1e6


def check_streams(figures, names, batch, workers):
    assert set(figures["streams"]) == names
    for stream in figures["streams"].values():
        assert stream["batch"] == batch
        check_spread(stream["images_per_second"])
        assert stream["images_per_second"]["min"] > 0
        if not sys.platform.startswith("linux"):
            continue
        check_spread(stream["images_per_cpu_second"])
        memory = stream["workers_peak_memory_mib"]
        assert len(memory) == workers
        assert all(10 < one < 10_000 for one in memory)


def test_the_figures_of_scenes_that_are_made_and_of_a_training(capsys, tmp_path):
    saved = tmp_path / "data.json"
    figures, said = run(capsys, "--train_steps=2", f"--json={saved}")
    assert json.loads(saved.read_text()) == figures
    assert "Figures:" in said
    assert (figures["what"], figures["config"]) == ("data", QUICKSTART)
    assert figures["crop_size"] == [32, 32]
    assert figures["cores"] >= 1
    assert 50 < figures["peak_memory_mib"] < 100_000
    assert {"jax", "flax", "grain", "pillow", "numpy"} == set(figures["versions"])
    parts = figures["milliseconds_per_image"]
    assert set(parts) == PARTS
    assert parts.pop("read") is None  # there are no files
    for spread in parts.values():
        check_spread(spread)
    check_streams(figures, {"labeled", "unlabeled"}, batch=4, workers=0)
    training = figures["training"]
    assert set(training) == {
        "seconds_per_step", "seconds_per_step_without_data", "data_wait_share",
    }  # fmt: skip
    check_spread(training["seconds_per_step"])
    check_spread(training["seconds_per_step_without_data"])
    assert 0 <= training["data_wait_share"] <= 1


def test_the_figures_of_files_with_a_worker_and_simulated_errors(capsys, tmp_path):
    rng = np.random.default_rng(0)
    for split, names in {"train": "abcdef", "val": "g"}.items():
        for name in names:
            for kind, shape in (("images", (40, 48, 3)), ("masks", (40, 48))):
                path = tmp_path / kind / split / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                top = 255 if kind == "images" else 3
                Image.fromarray(rng.integers(0, top, shape, np.uint8)).save(path)
    fields = {"source": "folder", "root": tmp_path, "num_classes": 3, "class_names": "a,b,c"}
    fields |= {"labeled_count": 3, "workers": 1}
    figures, _ = run(
        capsys,
        "--train_steps=0",
        method__simulated_weight="0.5",
        **{f"data__{name}": str(value) for name, value in fields.items()},
    )
    assert "training" not in figures
    assert figures["workers"] == 1
    parts = figures["milliseconds_per_image"]
    assert set(parts) == PARTS | {"simulate_errors"}
    for spread in parts.values():
        check_spread(spread)
    check_streams(figures, {"labeled", "unlabeled", "labeled_with_errors"}, batch=4, workers=1)


def test_without_an_accelerator_no_step_is_timed_unless_asked(monkeypatch):
    monkeypatch.setattr(data, "measure_data", lambda *_: {})
    config = configuration.load(QUICKSTART, tiny_overrides())
    flags = argparse.Namespace(what="data", config="c.py", seconds=1.0, train_steps=None)
    flags.phase = flags.topology = None
    assert "training" not in benchmark._measure(flags, config)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--what=data"], "--config"),
        ([f"--config={QUICKSTART}", "--steps=0"], "1 or more"),
        ([f"--config={QUICKSTART}", "--phase=third"], "'eln'"),
        ([f"--config={QUICKSTART}", "--what=dat"], "'data'"),
        ([f"--config={QUICKSTART}", "--what=data", "--phase=eln"], "--phase says nothing"),
        ([f"--config={QUICKSTART}", "--seconds=3"], "it goes with --what=data"),
        ([f"--config={QUICKSTART}", "--what=data", "--seconds=0"], "more than 0"),
        ([f"--config={QUICKSTART}", "--what=data", "--seconds=nan"], "more than 0"),
        ([f"--config={QUICKSTART}", "--what=data", "--train_steps=-1"], "0 or more"),
        ([f"--config={QUICKSTART}", "--what=data", "--json=no/such/x.json"], "no folder no/such"),
        ([f"--config={QUICKSTART}", "--what=data", "--json=."], "is a folder"),
        ([f"--config={QUICKSTART}", "--what=data", "--config.data.worker=1"], "data.workers"),
        (["--config=quickstrat.py", "--what=data"], "no configuration file"),
    ],
)
def test_a_mistaken_command_line_is_refused_in_one_sentence(flags, words):
    with pytest.raises(UserError) as error:
        benchmark.main(flags)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mistake_ends_the_command_with_2():
    command = [sys.executable, "-m", "eln_jax.benchmark", "--what=data"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stdout == ""
    assert len(process.stderr.strip().splitlines()) == 1
    assert process.stderr.startswith("eln_jax: ")


def measure(capsys, what, *flags):
    fields = [f"--config.{name}={value}" for name, value in tiny_overrides()]
    assert benchmark.main([f"--what={what}", f"--config={QUICKSTART}", *fields, *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_figures_of_a_step(capsys, tmp_path):
    profile = tmp_path / "profile"
    figures = measure(capsys, "step", "--phase=eln", "--steps=2", f"--profile={profile}")
    assert (figures["dtype"], figures["batch_size"]) == ("float32", [4, 4])
    ((phase, step),) = figures["step"].items()
    assert phase == "eln"
    check_spread(step["seconds_per_step"])
    fastest, median = step["seconds_per_step"]["min"], step["seconds_per_step"]["median"]
    assert step["images_per_second"]["median"] == pytest.approx(4 / median, rel=0.02, abs=0.01)
    assert step["images_per_second"]["min"] <= 4 / fastest + 0.01
    assert step["flops_per_second"] == pytest.approx(step["flops_per_step"] / median, rel=0.01)
    assert step["utilisation"] is None  # nobody says what a CPU can do
    assert step["program_memory_gib"]["arguments"] > 0
    assert step["peak_host_memory_gib"] > 0.05
    assert list(profile.glob("eln/**/*.xplane.pb"))


@pytest.mark.slow
def test_the_arithmetic_of_a_step_grows_with_its_batch(capsys):
    def flops(*flags):
        found = measure(capsys, "step", "--phase=supervised", "--steps=1", *flags)
        return found["step"]["supervised"]["flops_per_step"]

    four, eight, sixteen = (flops(f"--config.batch_size_labeled={n}") for n in (4, 8, 16))
    assert sixteen - eight == pytest.approx(2 * (eight - four), rel=0.05)  # the rest: the optimiser
    assert eight > 1.5 * four


def test_the_seconds_of_compilation_and_evaluation(capsys):
    figures = measure(capsys, "compile", "--phase=supervised")
    seconds = figures["compile"]["supervised"]
    assert set(seconds) == {"trace_seconds", "cold_seconds", "cached_seconds"}
    assert seconds["cached_seconds"] < seconds["cold_seconds"]
    evaluation = measure(capsys, "eval")["eval"]
    assert (evaluation["image_size"], evaluation["batch"]) == ([32, 32], 4)
    check_spread(evaluation["images_per_second"])
    check_spread(evaluation["images_per_second_with_eln"])


def test_a_step_is_measured_without_data_but_not_without_the_number_of_classes():
    with pytest.raises(UserError, match="How many classes"):
        benchmark.main(["--what=step", "--config=configs/folder.py"])
    with pytest.raises(UserError, match=r"data\.root is empty"):
        benchmark.main(["--what=data", "--config=configs/folder.py"])


def test_the_share_of_a_devices_peak_is_told_where_it_is_known():
    assert figures_module.peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert figures_module.peak_flops("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert figures_module.peak_flops("NVIDIA H100 80GB HBM3", "float32") is None
    assert figures_module.peak_flops("cpu", "bfloat16") is None
    assert figures_module.peak_flops("NVIDIA A100-SXM4-40GB", "bfloat16") == 312e12
    assert figures_module.peak_flops("NVIDIA L40S", "bfloat16") is None  # no L4
    assert figures_module.peak_flops("TPU v5 lite", "bfloat16") == 197e12
    assert figures_module.peak_flops("TPU v5", "bfloat16") == 459e12


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ("JAX TPU support not installed; cannot", "pip install 'eln_jax\\[tpu\\]'"),
        ("Unknown topology v9\nat line 7", "--topology=v9: Unknown topology v9; give one such as"),
    ],
)
def test_a_slice_that_cannot_be_compiled_for_is_a_sentence(monkeypatch, told, sentence):
    def refuse(*_):
        raise RuntimeError(told)

    monkeypatch.setattr(topology.topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError, match=sentence):
        benchmark.main(["--what=compile", "--topology=v9", f"--config={QUICKSTART}"])


def test_a_slice_goes_with_compilation_alone():
    with pytest.raises(UserError, match="--topology goes with --what=compile alone, not with step"):
        benchmark.main(["--topology=v5e:2x2", f"--config={QUICKSTART}"])


@pytest.mark.slow
def test_the_steps_compile_for_a_tpu_slice_that_is_not_there(capsys):
    pytest.importorskip("libtpu", reason="needs the extra tpu")
    fields = [f"--config.{name}={value}" for name, value in tiny_overrides()]
    flags = ["--what=compile", "--topology=v5e:2x2", f"--config={QUICKSTART}", *fields]
    assert benchmark.main(flags) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["devices"] == ["TPU v5 lite"] * 4
    found = [figures[phase] for phase in benchmark.PHASES]
    assert all(one["fits"] for one in found)
    memory = [one["memory_gib"]["temporary"] for one in found]
    assert 0 < memory[0] < memory[1] < memory[2] < 1
