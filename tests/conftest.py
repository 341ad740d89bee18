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
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
