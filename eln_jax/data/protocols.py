"""Published lists of labelled and unlabelled images, fetched once and checked.

A name such as "ssl_eln/voc/8_labeled_0" stands for a pair of lists in a public repository at a
pinned commit; `protocols.json` holds where, and the SHA-256 of each. The lists themselves are not
part of this project.
"""

import hashlib
import json
import os
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

from eln_jax import user_cache
from eln_jax.errors import UserError, did_you_mean

_URL = "https://raw.githubusercontent.com/{repository}/{commit}/{path}"
_SECONDS = 30.0


def is_protocol(name: str) -> bool:
    """Tells whether a partition's name begins with that of a collection of published lists."""
    return name.split("/", 1)[0] in _collections()


def protocol_names() -> list[str]:
    """Returns the name of every published partition."""
    return [f"{c}/{name}" for c, found in _collections().items() for name in found["lists"]]


def fetch_protocol(name: str, cache_folder: Path | None = None) -> tuple[Path, Path]:
    """Brings a published partition's lists to this machine, unless they are there.

    Args:
      name: As "ssl_eln/voc/8_labeled_0" (the paper's: 1/8 of VOC, first seed) or
        "unimatch/cityscapes/1_16".
      cache_folder: Where fetched lists are kept; `user_cache.cache_folder("protocols")` if None.

    Returns:
      The list of labelled images and the list of unlabelled ones.

    Raises:
      UserError: There is no such protocol, it cannot be fetched, or it is not what it was.
    """
    collection, _, rest = name.partition("/")
    found = _collections().get(collection, {"lists": {}})
    if rest not in found["lists"]:
        raise UserError(
            f"there is no published partition {name!r} ({len(protocol_names())} are known, such as "
            f"ssl_eln/voc/8_labeled_0)." + did_you_mean(name, protocol_names())
        )
    folder = user_cache.cache_folder("protocols") if cache_folder is None else cache_folder
    labeled, unlabeled = (
        _fetch(
            _URL.format(**found | {"path": found["lists"][rest][part][0]}),
            found["lists"][rest][part][1],
            folder / collection / f"{rest.replace('/', '_')}.{part}.txt",
        )
        for part in ("labeled", "unlabeled")
    )
    return labeled, unlabeled


@cache
def _collections() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("protocols.json").read_text())


def _fetch(url: str, sha256: str, path: Path) -> Path:
    """Returns `path` with the content of that checksum, fetched if it is not there."""
    if path.is_file():
        content = path.read_bytes()
    else:
        try:
            with urllib.request.urlopen(url, timeout=_SECONDS) as response:
                content = response.read()
        except (OSError, urllib.error.URLError) as error:
            raise UserError(
                f"the list {url} cannot be fetched ({error}): save it as {path}, or go online."
            ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        where = path if path.is_file() else url
        raise UserError(
            f"the list {where} is not the published one (its SHA-256 is not {sha256[:12]}...): "
            "delete it, or give the list you want as a file."
        )
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_bytes(content)
        temporary.replace(path)
    return path
