"""Where compiled programs are kept, and that the user's own choice comes first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eln_jax import user_cache
from eln_jax.errors import UserError

PROGRAM = """\
from eln_jax.user_cache import keep_compiled_programs
keep_compiled_programs()
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8))).sum())
"""


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """A home of its own, and none of the suite's settings of the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"):
        monkeypatch.delenv(name, raising=False)


def run_program() -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120
    )
    assert "error" not in done.stderr.lower()
    return done.stdout


@pytest.mark.usefixtures("environment")
def test_a_program_is_kept_for_the_next_process(tmp_path):
    assert run_program() == "512.0\n"
    programs = tmp_path / "home" / "eln_jax" / "programs"
    kept = {path: path.stat().st_mtime_ns for path in programs.rglob("*-cache")}
    assert kept
    assert run_program() == "512.0\n"
    assert {path: path.stat().st_mtime_ns for path in programs.rglob("*-cache")} == kept


@pytest.mark.usefixtures("environment")
def test_the_users_own_folder_comes_first(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    user_cache.keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
    assert not (tmp_path / "home").exists()


@pytest.mark.usefixtures("environment")
def test_without_a_home_nothing_is_kept(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    user_cache.keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        user_cache.cache_folder("weights")


@pytest.mark.usefixtures("environment")
def test_without_a_place_nothing_is_kept(tmp_path):
    (tmp_path / "home").write_text("a file where a folder should be")
    user_cache.keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
