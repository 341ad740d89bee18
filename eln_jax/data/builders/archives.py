"""Unpacks what a data set needs from a tar or zip archive, and trusts nothing that is in it."""

import contextlib
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import IO, NamedTuple

from eln_jax.data.progress import Progress, size_text
from eln_jax.errors import UserError

_MIB = 1 << 20
_CHUNK = _MIB
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    UnicodeError,
    RuntimeError,  # a zip with a password, or packed in a way that Python does not know
)


class Limits(NamedTuple):
    """What no archive of images comes near to; more is taken for a bomb.

    Attributes:
      file_bytes: Size of one file.
      total_bytes: Size of all the files that are unpacked.
      files: Number of files that are unpacked.
      ratio: Unpacked size over packed size; JPEG and PNG cannot be packed much further.
      free_bytes: Size up to which the ratio does not matter.
    """

    file_bytes: int = 256 * _MIB
    total_bytes: int = 64 << 30
    files: int = 200_000
    ratio: float = 100.0
    free_bytes: int = 16 * _MIB


class _Member(NamedTuple):
    """What an archive says about one of its files; `fault` says what else it is, if not a file."""

    name: str
    size: int
    fault: str
    packed: int  # bytes that this member, or all up to it, take in the archive
    unpacked: int  # bytes that these become
    position: int  # about where it lies in the archive
    open: Callable[[], IO[bytes] | None]


def unpack(
    archive: Path,
    folder: Path,
    place: Callable[[str], str | None],
    *,
    progress: Progress | None = None,
    limits: Limits | None = None,
) -> int:
    """Unpacks chosen members. A file that is there with the right size is passed over.

    Every file is written under another name and moved when it is whole, so that an unpacking that
    was interrupted goes on where it stopped.

    Args:
      archive: A zip, or a tar with any of Python's compressions.
      folder: Where to.
      place: Member's name -> path below `folder`, or None for a member that is not needed.
      progress: Shows how far it is.
      limits: Bounds; the usual ones if None.

    Returns:
      Number of chosen members, those passed over included.

    Raises:
      UserError: The archive is damaged; a member has an absolute path or one with "..", or is
        chosen and is a link, a device, or larger than the limits allow.
      OSError: A file cannot be written.
    """
    limits = limits or Limits()
    count, total, size = 0, 0, archive.stat().st_size
    with archive.open("rb") as raw:
        if progress:
            progress.start(f"Unpacking {archive.name}", size, "bytes")
        for member in _members(archive, raw):
            _refuse_path(archive, member.name)
            wanted = place(member.name)
            if wanted is not None and member.fault:
                raise UserError(_sentence(archive, member.name, member.fault))
            # Even a member that is passed over has to be unpacked to get past it in a tar.gz.
            if wanted is not None or member.unpacked > member.size:
                _refuse_ratio(archive, member, limits)
            if wanted is not None:
                count, total = count + 1, total + member.size
                _refuse(archive, member, count, total, limits)
                _write(archive, member, folder / wanted)
            if progress:
                progress.update(min(member.position, size - 1))
        if progress:
            progress.update(size)
    return count


def _members(archive: Path, raw: IO[bytes]) -> Iterator[_Member]:
    """Yields the members in the order in which they lie, so that the file is read once."""
    with _naming(archive):
        start = raw.read(4)
        raw.seek(0)
        if start in (b"PK\x03\x04", b"PK\x05\x06"):
            with zipfile.ZipFile(raw) as opened:
                for entry in sorted(opened.infolist(), key=lambda entry: entry.header_offset):
                    if not entry.is_dir():
                        yield _zip_member(opened, entry)
            return
        with _open_tar(raw) as opened:
            size = archive.stat().st_size
            for entry in opened:
                if not entry.isdir():
                    yield _tar_member(opened, entry, size, raw.tell())


def _open_tar(raw: IO[bytes]) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=raw, mode="r:*", tarinfo=_Header)
    except tarfile.ReadError as error:  # which lists all that was tried
        raise tarfile.ReadError("it is neither a zip nor a tar, or cut short") from error


def _zip_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    fault = "" if kind in (0, stat.S_IFREG) else "a link" if kind == stat.S_IFLNK else "a device"
    return _Member(
        entry.filename,
        entry.file_size,
        fault,
        entry.compress_size,
        entry.file_size,
        entry.header_offset,
        lambda: archive.open(entry),
    )


def _tar_member(
    archive: tarfile.TarFile, entry: tarfile.TarInfo, size: int, position: int
) -> _Member:
    fault = "a device"
    if entry.issym() or entry.islnk():
        fault = "a link"
    elif entry.isreg():
        # A sparse file may be of any size and take no place in the archive.
        fault = "a sparse file" if entry.issparse() else ""
    unpacked = entry.offset_data + entry.size
    return _Member(
        entry.name,
        entry.size,
        fault,
        size,
        unpacked,
        position,
        lambda: archive.extractfile(entry),
    )


class _Header(tarfile.TarInfo):
    """A tar header; `tarfile` reads extended headers whole, so their size is bounded here."""

    def _proc_member(self, archive: tarfile.TarFile):
        extended = (
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
        )
        if self.type in extended and self.size > _MIB:
            raise tarfile.ReadError(f"a header of {size_text(self.size)}")
        return super()._proc_member(archive)  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def _naming(archive: Path) -> Iterator[None]:
    """Turns an exception of tarfile or zipfile into a sentence."""
    try:
        yield
    except _DAMAGE as error:
        raise UserError(
            f"the archive {archive} cannot be read ({error}): fetch it again."
        ) from error


def _refuse_path(archive: Path, name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or PureWindowsPath(name).drive or ".." in parts:
        raise UserError(_sentence(archive, name, "a path that leads out of its folder"))


def _refuse_ratio(archive: Path, member: _Member, limits: Limits) -> None:
    if member.unpacked > limits.free_bytes + limits.ratio * member.packed:
        what = f"data packed to less than 1/{limits.ratio:.0f} of their size"
        raise UserError(_sentence(archive, member.name, what))


def _refuse(archive: Path, member: _Member, count: int, total: int, limits: Limits) -> None:
    if member.size > limits.file_bytes:
        what = f"a file of {size_text(member.size)} (bound: {size_text(limits.file_bytes)})"
    elif total > limits.total_bytes:
        what = f"with which the files come to more than {size_text(limits.total_bytes)}"
    elif count > limits.files:
        what = f"the file number {count} (bound: {limits.files})"
    # Files of a zip may overlap: each is then packed well enough, but not all together.
    elif total > limits.free_bytes + limits.ratio * archive.stat().st_size:
        what = f"with which the files come to more than {limits.ratio:.0f} times the archive"
    else:
        return
    raise UserError(_sentence(archive, member.name, what))


def _sentence(archive: Path, name: str, what: str) -> str:
    return (
        f"the archive {archive} holds {name!r}, {what}, which no official one does: fetch it from "
        "its official place."
    )


def _write(archive: Path, member: _Member, path: Path) -> None:
    """Writes a member to a path, unless it is there."""
    if path.is_file() and not path.is_symlink() and path.stat().st_size == member.size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as target:
            for chunk in _chunks(archive, member):
                target.write(chunk)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):  # a full disk has no name
            error.filename = error.filename or str(path)
        raise


def _chunks(archive: Path, member: _Member) -> Iterator[bytes]:
    left = member.size
    with _naming(archive):
        opened = member.open()
        assert opened is not None  # no regular file otherwise
        with opened as source:
            while left:
                chunk = source.read(min(left, _CHUNK))
                if not chunk:
                    raise EOFError(f"{member.name} is cut short")
                left -= len(chunk)
                yield chunk
            if source.read(1):  # zipfile checks the sum of a file when it comes to its end
                raise EOFError(f"{member.name} is larger than it says")
