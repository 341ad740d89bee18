"""Strict settings for the suite: four CPU devices, no silent rank promotion, cached programs."""

import os
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the suite's time is compilation: without LLVM's optimisation it takes a third less.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        "--xla_backend_optimization_level=0",
    ]
)
# A cache of compiled programs shared by all test processes and later runs of the suite.
CACHE = Path(
    os.environ.get("ELN_JAX_TEST_CACHE", Path(tempfile.gettempdir()) / "eln_jax_test_cache")
)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import json  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402
from xdist.scheduler import LoadFileScheduling  # noqa: E402

from eln_jax import configuration  # noqa: E402
from eln_jax.training import assembly  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Blocks and fields of the configuration that no compiled program depends on.
NOT_COMPILED = ("checkpoint", "compare_supervised", "eval", "log")
DATA_COMPILED = ("ignore_label", "num_classes")

# Files whose first training needs the same programs.
TRAIN_THE_SAME = (
    "tests/studies/study_test.py",
    "tests/trained_model_commands_test.py",
    "tests/training/comparison_test.py",
    "tests/training/fitting_test.py",
    "tests/training/loop_test.py",
)


class OneCompiles(LoadFileScheduling):
    """A file goes to one process; those that compile the same go to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "trainings" if file in TRAIN_THE_SAME else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return OneCompiles(config, log) if config.option.dist == "loadfile" else None


@pytest.fixture
def full():
    """A file that has no room: to be linked to in place of one that will be written."""
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("no device that is always full")
    return device


@pytest.fixture(autouse=True, scope="module")
def programs_made_once():
    """A module's runs whose configurations ask for the same programs share them, compiled.

    They end with it: XLA crashed with the programs of the whole suite in one process.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("make_networks", "make_programs", "make_evaluation_networks"):
            patch.setattr(assembly, name, _once(getattr(assembly, name)))
        yield
    jax.clear_caches()


def _once(make):
    made = {}

    def found(config, *rest):
        fields = json.loads(configuration.to_json(config))
        fields["data"] = [fields["data"][name] for name in DATA_COMPILED]
        kept = {name: value for name, value in fields.items() if name not in NOT_COMPILED}
        if fields["optim"]["schedule"] == "constant":
            del kept["steps"]
        others = [value for value in rest if not isinstance(value, tuple) or value]
        key = json.dumps(kept), *(str(value) for value in others)
        if key not in made:
            made[key] = make(config, *rest)
        return made[key]

    return found
