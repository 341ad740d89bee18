import random
import subprocess

import pytest

from eln_jax.training import manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "weights").write_bytes(random.Random(0).randbytes(3_000_000))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "words").write_text("a few")
    manifest.write(tmp_path)
    return tmp_path


def fault(folder):
    files = manifest.read(folder)
    return "the manifest" if files is None else manifest.find_fault(folder, files)


def test_what_was_not_touched_has_no_fault(folder):
    assert fault(folder) == ""
    assert set(manifest.read(folder)) == {"d/weights", "empty", "words"}


def test_the_sums_are_those_of_sha256sum(folder):
    line = subprocess.check_output(["sha256sum", folder / "d" / "weights"], text=True)
    assert manifest.read(folder)["d/weights"]["sha256"] == line.split()[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "words").unlink(), "words is missing"),
        (lambda f: (f / "words").write_text("a"), "words has 1 bytes instead of 5"),
        (lambda f: (f / "empty").write_text("more"), "empty has 4 bytes instead of 0"),
        (lambda f: (f / "words").write_text("a fev"), "words has changed"),
    ],
)
def test_a_file_that_is_not_as_it_was_is_named(folder, change, words):
    change(folder)
    assert words in fault(folder)


def test_every_flipped_bit_of_the_manifest_itself_is_found(folder):
    path = folder / manifest.NAME
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert manifest.read(folder) is None, bit
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert manifest.read(folder) is None, size
