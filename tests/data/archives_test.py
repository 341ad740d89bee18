import io
import stat
import tarfile
import zipfile

import pytest

from eln_jax.data.builders.archives import Limits, unpack
from eln_jax.errors import UserError

SMALL = Limits(file_bytes=1000, total_bytes=1500, files=3, ratio=10, free_bytes=100)


def place(name):
    return name if name.endswith(".png") else None


def member(name, content=b"content", **fields):
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for field, value in fields.items():
        setattr(header, field, value)
    return header, content


def make_tar(path, *members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for header, content in members:
            archive.addfile(header, io.BytesIO(content))
    return path


def make_zip(path, **contents):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def noise(length):
    return bytes(i * i % 251 for i in range(length))


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_only_chosen_members_are_unpacked_and_only_once(tmp_path, name):
    if name == "a.zip":
        make_zip(tmp_path / name, **{"d/a.png": b"first", "d/b.png": b"second", "c.txt": b"third"})
    else:
        make_tar(
            tmp_path / name,
            member("d/", b"", type=tarfile.DIRTYPE),
            member("d/a.png", b"first"),
            member("d/link.txt", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            member("d/b.png", b"second"),
            mode="w:gz" if name == "a.tgz" else "w",
        )
    (tmp_path / "out/d").mkdir(parents=True)
    (tmp_path / "out/d/a.png").write_bytes(b"FIRST")  # of the right size: left alone
    (tmp_path / "out/d/b.png").write_bytes(b"sec")  # cut short
    assert unpack(tmp_path / name, tmp_path / "out", place) == 2
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    assert files == {"a.png": b"FIRST", "b.png": b"second"}


@pytest.mark.parametrize("name", ["/abs/a.png", "d/../../a.png", "..\\a.png", "C:\\a.png", "../x"])
def test_a_member_that_leads_out_is_refused(tmp_path, name):
    tar = make_tar(tmp_path / "a.tar", member("b.png"), member(name))
    packed = make_zip(tmp_path / "a.zip", **{"b.png": b"", name: b"content"})
    for archive in (tar, packed):
        with pytest.raises(UserError, match=f"{archive.name} holds .*leads out of its folder"):
            unpack(archive, tmp_path / "out", place)
    assert {path.name for path in tmp_path.rglob("*.png")} <= {"b.png"}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device"),
    ],
)
def test_links_and_devices_are_refused(tmp_path, kind, words):
    tar = make_tar(tmp_path / "a.tar", member("a.png", b"", type=kind, linkname="/etc/passwd"))
    with pytest.raises(UserError, match=rf"a\.tar holds 'a\.png', {words}"):
        unpack(tar, tmp_path / "out", place)
    assert not (tmp_path / "out").exists()


def test_a_link_in_a_zip_is_refused(tmp_path):
    entry = zipfile.ZipInfo("a.png")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(UserError, match=r"a\.zip holds 'a\.png', a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out", place)


def test_a_sparse_file_is_refused(tmp_path):
    # GNU's old format: a table of pieces in the header, and the size that they come to.
    header, content = member("a.png", b"x" * 512, type=tarfile.GNUTYPE_SPARSE)
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"00000000000\0" + b"00000001000\0"
    block[483:495] = b"77777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(bytes(block) + content + bytes(1024))
    with pytest.raises(UserError, match=r"'a\.png', a sparse file"):
        unpack(tmp_path / "a.tar", tmp_path / "out", place)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"a.png": noise(1001)}, r"a\.png', a file of 1\.0 kB"),
        ({"a.png": noise(900), "b.png": noise(900)}, r"b\.png', with which .* than 1\.5 kB"),
        ({f"{i}.png": b"" for i in range(4)}, r"3\.png', the file number 4"),
        ({"a.png": bytes(999)}, r"a\.png', data packed to less than 1/10"),
    ],
)
@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_bombs_are_refused(tmp_path, contents, words, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        make_zip(path, **contents)
    else:
        if "packed" in words:  # a tar's headers alone pack that well
            contents = {"a.png": bytes(100_000)}
        make_tar(path, *(member(*item) for item in contents.items()), mode="w:gz")
    limits = SMALL if "packed" in words or kind == "zip" else SMALL._replace(ratio=1000)
    with pytest.raises(UserError, match=words):
        unpack(path, tmp_path / "out", place, limits=limits)


def test_a_bomb_that_is_not_chosen_is_not_unpacked_either(tmp_path):
    bomb = make_tar(tmp_path / "a.tgz", member("big.txt", bytes(10**6)), mode="w:gz")
    with pytest.raises(UserError, match=r"big\.txt', data packed"):
        unpack(bomb, tmp_path / "out", place, limits=SMALL)
    long_name = member("n" * (2 << 20) + ".png")
    long_name = make_tar(tmp_path / "b.tgz", member("a.txt"), long_name, mode="w:gz")
    with pytest.raises(UserError, match=r"b\.tgz cannot be read \(a header of 2\.1 MB\)"):
        unpack(long_name, tmp_path / "out", place)


def test_overlapping_files_of_a_zip_are_refused(tmp_path):
    # A directory that names the same data again and again: each is packed no better than 1/10.
    path = make_zip(tmp_path / "a.zip", **{"0.png": noise(300)})
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.getinfo("0.png")
        archive.filelist += [first] * 40
        archive._didModify = True  # pyright: ignore[reportAttributeAccessIssue]
    limits = SMALL._replace(total_bytes=10**9, files=10**9, ratio=1.5)
    with pytest.raises(UserError, match=r"more than 2 times the archive"):
        unpack(path, tmp_path / "out", place, limits=limits)


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_a_damaged_archive_is_named_and_leaves_no_half_file(tmp_path, name):
    content = noise(20_000)
    if name == "a.zip":
        make_zip(tmp_path / name, **{"a.png": content})
    else:
        make_tar(tmp_path / name, member("a.png", content), mode="w:gz" if "gz" in name else "w")
    data = (tmp_path / name).read_bytes()
    for broken in (data[: len(data) // 2], b"no archive"):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(UserError, match=rf"archive .*{name} cannot be read .*fetch it again"):
            unpack(tmp_path / name, tmp_path / "out", place)
    if name == "a.zip":  # a file whose sum is another one
        flipped = bytearray(data)
        flipped[100] ^= 1
        (tmp_path / name).write_bytes(flipped)
        with pytest.raises(UserError, match="cannot be read"):
            unpack(tmp_path / name, tmp_path / "out", place)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
