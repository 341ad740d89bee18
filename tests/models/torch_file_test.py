"""Fixtures `golden/torch_{zip,legacy}.pth` were written by torch.save (PyTorch 2.13, CPU).

`golden/torch_file.npz` holds the same tensors as PyTorch's own `.numpy()` gave them.
"""

import io
import pathlib
import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest

from eln_jax.errors import UserError
from eln_jax.models.torch_file import read_torch_file, write_torch_file
from eln_jax.models.torch_pickle import read_pickle

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
FORMATS = ("zip", "legacy")


def flatten(value, prefix=""):
    if not isinstance(value, dict):
        return {prefix: value}
    flat = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}/{key}" if prefix else str(key))
    return flat


def write_zip(path, pickled, entries=None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in (entries or {}).items():
            archive.writestr(f"archive/{name}", data)


def write_legacy(path, pickled, storages=()):
    system = {"protocol_version": 1001, "little_endian": True}
    head = b"".join(pickle.dumps(item, 2) for item in (LEGACY_MAGIC, 1001, system))
    keys = pickle.dumps([key for key, _, _ in storages], 2)
    data = b"".join(struct.pack("<q", count) + raw for _, count, raw in storages)
    path.write_bytes(head + pickled + keys + data)


def pickled_tensor(size=4, offset=0, shape=(2, 2), strides=(2, 1), storage_name="FloatStorage"):
    """A pickle of one tensor, written by hand: {"t": tensor}."""
    size, offset, shape, strides = (
        pickle.dumps(value, 2)[2:-1] for value in (size, offset, shape, strides)
    )
    return (
        b"\x80\x02}X\x01\x00\x00\x00tctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        + f"ctorch\n{storage_name}\n".encode()
        + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + size
        + b"tQ"
        + offset
        + shape
        + strides
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_reads_what_torch_save_wrote(kind):
    read = flatten(read_torch_file(GOLDEN / f"torch_{kind}.pth"))
    with np.load(GOLDEN / "torch_file.npz") as expected:
        tensors = {key for key, value in read.items() if isinstance(value, np.ndarray)}
        assert tensors == set(expected.files)
        for key, value in expected.items():
            assert read[key].shape == value.shape, key
            np.testing.assert_array_equal(read[key].astype(value.dtype), value, err_msg=key)
            if key != "bf16":  # NumPy alone has no bfloat16: there float32
                assert read[key].dtype == value.dtype, key
    assert read["bf16"].dtype.name == "bfloat16"


@pytest.mark.parametrize("kind", FORMATS)
def test_reads_plain_values(kind):
    read = read_torch_file(GOLDEN / f"torch_{kind}.pth")
    assert (read["epoch"], read["big"], read["neg"], read["lr"]) == (3, 2**70, -5, 1e-4)
    assert (read["none"], read["name"], read["size"]) == (None, "é", (3, 2))
    assert read["list"] == [1, (2, [3.5])]
    assert read["dtype"] == "torch.float16"
    assert read["scaler_state_dict"]["growth_interval"] == 2000
    assert read["optimizer_state_dict"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert type(read["state_dict"]) is dict


def test_skipped_tensors_are_not_read(tmp_path):
    shutil.copy(GOLDEN / "torch_zip.pth", tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    # Without its storages the file is broken, except for those who skip what needs them.
    write_zip(tmp_path / "b.pth", entries["torch_zip/data.pkl"])
    with pytest.raises(UserError, match="damaged"):
        read_torch_file(tmp_path / "b.pth")
    everything = read_torch_file(tmp_path / "a.pth")
    tensors = [key for key, value in everything.items() if not isinstance(value, int)]
    read = read_torch_file(tmp_path / "b.pth", skip=tensors)
    assert read == {"epoch": 3, "big": 2**70, "neg": -5}


def test_round_trip_of_values_and_bytes(tmp_path):
    value = read_torch_file(GOLDEN / "torch_zip.pth", skip=["dtype"])
    write_torch_file(tmp_path / "a.pth", value)
    again = read_torch_file(tmp_path / "a.pth")
    first, second = flatten(value), flatten(again)
    assert list(first) == list(second)
    for key, item in first.items():
        if isinstance(item, np.ndarray):
            assert item.dtype == second[key].dtype
            assert item.tobytes() == second[key].tobytes()
        else:
            assert item == second[key]
    write_torch_file(tmp_path / "another name.pth", again)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "another name.pth").read_bytes()


@pytest.mark.parametrize(
    "value", [{"a": {1, 2}}, {"a": np.zeros(2, np.complex64)}, {"a": object()}]
)
def test_what_has_no_form_is_not_written(tmp_path, value):
    with pytest.raises(UserError, match="cannot be written"):
        write_torch_file(tmp_path / "a.pth", value)


class RunsCode:
    """Unpickled by Python, this creates the file `path`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", FORMATS)
def test_code_is_refused_and_not_run(tmp_path, kind, protocol):
    canary = tmp_path / "canary"
    pickled = pickle.dumps({"epoch": 1, "optimizer_state_dict": RunsCode(canary)}, protocol)
    pickle.loads(pickled)
    assert canary.exists(), "the trap itself must work"
    canary.unlink()
    write = write_zip if kind == "zip" else write_legacy
    write(tmp_path / "a.pth", pickled)
    # Skipping the entry does not skip the check.
    with pytest.raises(UserError, match="refused"):
        read_torch_file(tmp_path / "a.pth", skip=["optimizer_state_dict"])
    assert not canary.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n(X\x04\x00\x00\x00truetR.",  # GLOBAL, REDUCE
        b"(X\x04\x00\x00\x00trueios\nsystem\n.",  # INST
        b"(cos\nsystem\nX\x04\x00\x00\x00trueo.",  # OBJ
        b"\x80\x02cbuiltins\neval\n)\x81.",  # NEWOBJ
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",  # STACK_GLOBAL
        b"\x80\x02\x82\x01.",  # EXT1
        b"ctorch.storage\n_load_from_bytes\n(C\x00tR.",  # would unpickle again, unrestricted
        b"ctorch.jit._pickle\nbuild_intlist\n.",
        b"ctorch.nn.modules.conv\nConv2d\n)R.",  # a whole module instead of its state_dict
    ],
)
def test_names_and_opcodes_outside_the_list_are_refused(tmp_path, pickled):
    write_zip(tmp_path / "a.pth", pickled)
    with pytest.raises(UserError, match="refused"):
        read_torch_file(tmp_path / "a.pth")


@pytest.mark.parametrize("kind", FORMATS)
def test_strides_and_offset(tmp_path, kind):
    data = np.arange(8, dtype=np.float32)
    pickled = pickled_tensor(size=8, offset=1, shape=(3, 2), strides=(1, 3))
    path = tmp_path / "a.pth"
    if kind == "zip":
        write_zip(path, pickled, {"data/0": data.tobytes()})
    else:
        pickled = pickled.replace(b"cpuK\x08t", b"cpuK\x08Nt")  # the older format tells of views
        write_legacy(path, pickled, [("0", 8, data.tobytes())])
    np.testing.assert_array_equal(read_torch_file(path)["t"], [[1, 4], [2, 5], [3, 6]])


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 1},
        {"shape": (2, 3)},
        {"strides": (3, 1)},
        {"size": 5},
        {"size": 3},
        {"shape": (2**30, 2**30), "strides": (0, 0)},  # small file, large memory
        {"shape": (2,)},
        {"shape": (2**40, 2**40, 2**40, 0), "strides": (0, 0, 0, 0)},
        {"shape": (2, -2)},
        {"strides": (2, -1)},
        {"offset": -1},
        {"shape": (2, 2.0)},
        {"storage_name": "OrderedDict"},
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, fields):
    write_zip(tmp_path / "a.pth", pickled_tensor(**fields), {"data/0": bytes(16)})
    with pytest.raises(UserError, match=r"damaged|refused"):
        read_torch_file(tmp_path / "a.pth")


def test_hostile_containers_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    nested = b"\x80\x02]" + b"]" * 5000 + b"a" * 5000 + b"."
    itself = b"\x80\x02]q\x00h\x00a."
    # A list of two references to a list of two references ...: 2**100 elements when spelled out.
    doubled = b"\x80\x02]" + b"".join(b"q%c](h%ch%ce" % (i, i, i) for i in range(30)) + b"."
    for pickled, refused in ((nested, True), (itself, True), (doubled, False)):
        write_zip(path, pickled)
        if refused:
            with pytest.raises(UserError, match="nested too deeply"):
                read_torch_file(path)
        else:
            read_torch_file(path)


def test_other_files_are_told_apart(tmp_path):
    path = tmp_path / "a.pth"
    with pytest.raises(UserError, match="no such file"):
        read_torch_file(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="not a PyTorch file"):
        read_torch_file(path)
    path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(UserError, match="not a PyTorch file"):
        read_torch_file(path)
    path.write_bytes(pickle.dumps({"a": 1}, 2))
    with pytest.raises(UserError, match="not a PyTorch file"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(UserError, match=r"not one that torch\.save wrote"):
        read_torch_file(path)
    write_zip(path, pickled_tensor(), {"data/0": bytes(16)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_torch_file(path)
    write_zip(path, pickled_tensor(), {"data/0": bytes(16), "byteorder": b"big"})
    with pytest.raises(UserError, match="big-endian"):
        read_torch_file(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_give_one_kind_of_error(tmp_path, kind):
    """Cut short or altered anywhere, a file is read or refused with a sentence, never a crash."""
    whole = (GOLDEN / f"torch_{kind}.pth").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "a.pth"
    refused = 0
    for trial in range(300):
        data = bytearray(whole)
        if trial % 3 == 0:
            del data[rng.integers(len(data)) :]
        else:
            for place in rng.integers(len(data), size=trial % 3 * 4):
                data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            read_torch_file(path)
        except UserError:
            refused += 1
    assert refused > 150


def test_stream_position_is_respected():
    """Two pickles in a row, as in the older format, are read one after the other."""
    stream = io.BytesIO(pickle.dumps([1], 2) + pickle.dumps({"a": "b"}, 4))
    assert read_pickle(stream, "x") == [1]
    assert read_pickle(stream, "x") == {"a": "b"}
