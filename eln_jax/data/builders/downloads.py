"""Fetches published archives: goes on where it stopped, and checks them before they are used.

The addresses themselves could not be tried where this was written; the tests fetch from a server of
their own.
"""

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from eln_jax.data.progress import Progress, size_text
from eln_jax.errors import UserError

_SECONDS = 60.0  # without a byte
_CHUNK = 1 << 20


def fetch(url: str, path: Path, md5: str = "", progress: Progress | None = None) -> Path:
    """Brings a file to this machine, unless it is there.

    What has arrived lies in `path` with ".part" added until all of it is there and is what it
    should be.

    Args:
      url: http or https.
      path: Where to.
      md5: MD5 sum of the file in hexadecimal digits; nothing is checked if empty.
      progress: Shows how far it is.

    Returns:
      `path`.

    Raises:
      UserError: The file cannot be fetched, breaks off, or is another one.
      OSError: It cannot be written.
    """
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        _receive(url, path, part, progress)
    except urllib.error.HTTPError as error:
        error.close()
        raise UserError(
            f"{url} cannot be fetched (the server says {error.code} {error.reason}): fetch it by "
            f"hand and put it in {path.parent}."
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as e:
        reason = getattr(e, "reason", e)
        raise UserError(
            f"{url} cannot be fetched ({reason}): start the same command again to go on from what "
            f"is there, or fetch it by hand and put it in {path.parent}."
        ) from e
    if md5 and (found := _md5(part)) != md5:
        part.unlink()
        raise UserError(
            f"what came from {url} is not the published file (its MD5 is {found}, not {md5}) and "
            "was deleted: start again, or fetch the file from another place."
        )
    return part.replace(path)


def _receive(url: str, path: Path, part: Path, progress: Progress | None) -> None:
    """Appends to `part` what it lacks."""
    done = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "eln_jax", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_SECONDS
        )
    except urllib.error.HTTPError as error:
        # Either all of it is there already, or it is no beginning of what the server has.
        if error.code != 416:
            raise
        error.close()
        if not error.headers.get("Content-Range", "").endswith(f"/{done}"):
            part.unlink()
            _receive(url, path, part, progress)
        return
    with response:
        if response.status != 206 or _first_byte(response) != done:
            done = 0  # the server sends all of it
        length = int(response.headers.get("Content-Length") or 0)
        total = done + length
        if progress and length:
            progress.start(f"Fetching {path.name}", total, "bytes", done)
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            while chunk := response.read(_CHUNK):
                _write(file, chunk)
                done += len(chunk)
                if progress and length:
                    progress.update(done)
    if done < total:
        raise ConnectionError(f"broke off after {size_text(done)} of {size_text(total)}")


def _write(file: BinaryIO, chunk: bytes) -> None:
    try:
        file.write(chunk)
        file.flush()  # so that a full disk is told here
    except OSError as error:
        error.filename = error.filename or file.name
        raise


def _first_byte(response: http.client.HTTPResponse) -> int:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        # No secret depends on it: it is the sum that was published.
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
