"""What is worth keeping between runs, in the user's cache folder. It may be deleted at any time."""

import hashlib
import os
import platform
from pathlib import Path

from eln_jax.errors import UserError

_MOST_BYTES = 4 * 2**30  # of compiled programs; those used longest ago go first


def cache_folder(name: str) -> Path:
    """Returns eln_jax/`name` in the user's cache folder, $XDG_CACHE_HOME or ~/.cache.

    Raises:
        UserError: there is no home, as in a container that runs as anybody.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise UserError(
            "This user has no home folder: say in XDG_CACHE_HOME where files may be kept."
        ) from error
    return Path(home) / "eln_jax" / name


def keep_compiled_programs() -> None:
    """Lets JAX keep compiled programs, so that the same training starts faster the next time.

    To be called before jax is imported. JAX's own settings, such as JAX_COMPILATION_CACHE_DIR or
    JAX_ENABLE_COMPILATION_CACHE=false, come first; where nothing can be written nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = cache_folder("programs") / _processor()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, UserError):
        return
    if os.access(folder, os.W_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(_MOST_BYTES))


def _processor() -> str:
    """Tells processors apart: a program for one may hold instructions that another lacks."""
    found = [platform.machine()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        found += sorted({x for x in lines if x.startswith(("flags", "Features", "model name"))})
    except OSError:  # not Linux
        pass
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]
