import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from eln_jax.data.doctor import examine, quick_check
from eln_jax.data.doctor.faults import KINDS
from eln_jax.data.doctor.page import make_page
from eln_jax.data.folder import open_folder
from eln_jax.data.labels import make_code
from eln_jax.data.partitions import Partition
from eln_jax.data.synthetic import SyntheticSource
from eln_jax.training.checkup import open_all
from tests.data.doctor.spoiled import (
    CLASSES,
    CROP,
    PLANTS,
    SHAPE,
    World,
    bands,
    covering_plans,
    plans,
)

PALETTE = np.zeros((CLASSES, 3), np.uint8)

opened: list[str] = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)


def inspect(world, **kwargs):
    train, val, partition, found = open_all(world.data())
    return (
        examine(train, val, partition, CROP, found=found, **kwargs),
        train,
        val,
        partition,
    )


def pairs(faults):
    return {(fault.file, fault.fault) for fault in faults}


def snapshot(root):
    """Bytes, times and targets of links of everything below a folder."""
    return {
        path: (path.lstat().st_mtime_ns, str(path.readlink()) if path.is_symlink() else read(path))
        for path in sorted(root.rglob("*"))
    }


def read(path):
    return path.read_bytes() if path.is_file() else b""


# What headers tell; a mask may be corrupt further on.
HEADERS = {
    "unreadable file",
    "corrupt image",
    "decompression bomb",
    "size mismatch",
    "mask fits both ways",
    "image without mask",
    "EXIF-rotated image",
    "smaller than the crop",
}


@pytest.mark.parametrize("plan", covering_plans())
def test_each_fault_is_found_in_each_part(plan, tmp_path):
    check(plan, tmp_path)


@settings(max_examples=25, deadline=None)
@given(plan=plans())
def test_any_faults_at_any_places_are_found_and_no_others(plan, tmp_path_factory):
    check(plan, tmp_path_factory.mktemp("world"))


def check(plan, root):
    """Plants faults and demands that the examination finds these and no others."""
    world = World(root)
    for (_, name), fault in plan.items():
        PLANTS[fault](world, name)
    world.expect_twins()
    before = snapshot(world.root)
    opened.clear()
    report, train, val, partition = inspect(world)
    page = make_page(
        report, train, val, partition, palette=PALETTE, title="t", root=str(world.root)
    )
    quick = quick_check(train, val, partition, CROP)
    unlabeled = {str(world.mask[name]) for name in world.parts["unlabeled"]}
    assert not unlabeled & set(opened)
    assert str(world.mask["a"]) in opened  # the hook does hear of masks
    assert snapshot(world.root) == before

    assert pairs(report.faults) == world.expected
    assert len(set(report.faults)) == len(report.faults)
    assert pairs(quick) <= world.expected
    assert {pair for pair in world.expected if pair[1] in HEADERS} <= pairs(quick)
    rows = json.loads(report.to_json())
    assert {(row["file"], row["fault"]) for row in rows["faults"]} == world.expected
    assert all(file in page for file, _ in world.expected)
    severities = {KINDS[kind].severity for _, kind in world.expected}
    assert report.exit_code == ("error" in severities)
    assert rows["counts"] | {"errors": 0, "warnings": 0, "notes": 0} == {
        **{part: len(names) for part, names in world.parts.items()},
        **dict.fromkeys(("unused", "errors", "warnings", "notes"), 0),
    }


def test_clean_data_gives_figures_and_no_fault(tmp_path):
    world = World(tmp_path)
    world.reshape("b", (26, 50))
    seen = []
    report, *_ = inspect(world, progress=seen.append)
    assert report.faults == ()
    assert report.exit_code == 0
    assert seen == list(range(1, 14))
    assert report.sizes["labeled"]["width"] == {"min": 40, "median": 40, "max": 50}
    assert report.sizes["labeled"]["height"] == {"min": 26, "median": 30, "max": 30}
    # Class 1 has 2 x 6 pixels in each of five masks, four of 30x40 and one of 26x50.
    share = report.classes["labeled"]
    assert share["class 1"] == pytest.approx(5 * 12 / (4 * 1200 + 1300))
    assert sum(share.values()) == pytest.approx(1)
    assert report.classes["images"]["labeled"]["class 2"] == 5
    assert report.classes["never_labeled"] == ["class 3"]


def test_every_kind_of_fault_is_planted_somewhere():
    here = Path(__file__).parent
    tests = [*here.glob("*.py"), here.parents[1] / "training/checkup_test.py"]
    sources = "".join(path.read_text() for path in tests)
    assert not [kind for kind in KINDS if f'"{kind}"' not in sources]


def test_the_first_place_and_number_of_unknown_labels_are_told(tmp_path):
    world = World(tmp_path)
    values = bands()
    values[3, 20:23], values[7, 1] = 9, 77
    world.save_mask("c", values)
    report, *_ = inspect(world)
    (fault,) = report.faults
    assert fault.detail == "9, 77 in 4 pixel(s), first at row 3, column 20"


def test_unknown_colours_are_told_where_colours_have_a_meaning(tmp_path):
    world = World(tmp_path)
    colors = np.zeros((*SHAPE, 3), np.uint8)
    colors[:9] = (128, 0, 0)
    for name in "abcdevwxy":
        world.save_mask(name, colors)
    colors[4, 5] = (1, 2, 3)
    world.save_mask("x", colors)
    data = world.data()
    data.num_classes, data.class_names = 2, ("ground", "cat")
    data.class_colors = ("#000000", "#800000")
    train, val, partition, found = open_all(data)
    report = examine(train, val, partition, CROP, found=found)
    (fault,) = report.faults
    assert (fault.file, fault.fault) == (str(world.mask["x"]), "unknown colour")
    assert fault.detail == "#010203 in 1 pixel(s), first at row 4, column 5"
    assert report.classes["labeled"]["cat"] == pytest.approx(9 / 30)


def test_a_large_image_is_a_warning_before_it_is_a_bomb(tmp_path, monkeypatch):
    world = World(tmp_path)
    world.reshape("b", (60, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    report, *_ = inspect(world)
    assert pairs(report.faults) == {(str(world.image["b"]), "very large image")}


def test_sources_without_files_are_decoded():
    source = SyntheticSource(6, size=(32, 40), num_classes=3, seed=0)

    class Faulty(SyntheticSource):
        def read_label(self, index):
            label = super().read_label(index)
            return np.where(label == 0, 7, label) if index == 1 else label

    faulty = Faulty(6, size=(32, 40), num_classes=3, seed=0)
    partition = Partition((0, 1), (2, 3), (4, 5))
    assert not [f for f in examine(source, source, partition).faults if f.severity == "error"]
    report = examine(faulty, source, partition)
    assert (str(source.ids[1]), "label out of range") in pairs(report.faults)
    assert quick_check(source, source, partition, (64, 64)) == []


def test_empty_parts_are_errors(tmp_path):
    world = World(tmp_path)
    train = open_folder(world.root, make_code(CLASSES), split="train")
    report = examine(train, train, Partition((), (0,), ()))
    assert [fault.fault for fault in report.faults] == ["empty split", "empty split"]
