import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from eln_jax.data import doctor, doctor_page, doctor_report
from eln_jax.data.doctor import examine, quick_check
from eln_jax.data.doctor_files import digest_of
from eln_jax.data.faults import KINDS, in_order, make_fault, summary_lines
from eln_jax.data.folder import open_folder
from eln_jax.data.labels import make_code
from eln_jax.data.partitions import Partition
from eln_jax.data.sources import ExampleFiles, FileSource
from eln_jax.data.synthetic import SyntheticSource
from eln_jax.training.checkup import open_all
from tests.data.spoiled import (
    CLASSES,
    CROP,
    PLANTS,
    SHAPE,
    World,
    bands,
    covering_plans,
    plans,
    small,
)

PALETTE = np.zeros((CLASSES, 3), np.uint8)

opened: list[str] = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)


def inspect(world, **kwargs):
    train, val, partition, found = open_all(world.data())
    return (
        examine(train, val, partition, CROP, found=found, workers=2, **kwargs),
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
    page = doctor_page.make_page(
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
    rows = json.loads(doctor_report.to_json(report))
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
    report, *_ = inspect(world, progress=lambda *numbers: seen.append(numbers))
    assert report.faults == ()
    assert report.exit_code == 0
    assert seen == [(done, 13) for done in range(1, 14)]
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
    tests = (
        "spoiled.py",
        "doctor_test.py",
        "doctor_listing_test.py",
        "../training/checkup_test.py",
    )
    sources = "".join((here / name).read_text() for name in tests)
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
    (tmp_path / "classes.txt").write_text("0 ground #000000\n1 cat #800000\n")
    data = world.data()
    data.num_classes = 0
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


def test_quick_check_ends_in_time_and_says_so(tmp_path):
    world = World(tmp_path)
    small(world, "b")
    train, val, partition, _ = open_all(world.data())
    assert [fault.fault for fault in quick_check(train, val, partition, CROP)] == [
        "smaller than the crop"
    ]
    (fault,) = quick_check(train, val, partition, None, max_images=5)
    assert (fault.fault, fault.detail) == ("check incomplete", "5 of 13 images looked at")
    ticks = iter(range(100))
    (fault,) = quick_check(train, val, partition, None, clock=lambda: next(ticks), max_seconds=3)
    assert fault.detail == "3 of 13 images looked at"


def test_pictures_of_the_same_bytes_in_other_shapes_are_not_the_same():
    assert digest_of(np.zeros((4, 6, 3), np.uint8)) == digest_of(np.zeros((4, 6, 3), np.uint8))
    assert digest_of(np.zeros((4, 6, 3), np.uint8)) != digest_of(np.zeros((6, 4, 3), np.uint8))


def test_summary_has_a_line_a_kind():
    faults = [make_fault("truncated image", f"d/{name}.png", "cut") for name in "ba"]
    faults.append(make_fault("alpha channel", "d/c.png", "clear"))
    first, second = summary_lines(faults, "d")
    assert first.startswith("error: truncated image, 2 times, such as a.png (cut): copy")
    assert second.startswith("warning: alpha channel: c.png (clear): ")
    assert doctor.Fault is type(in_order(faults)[0])


def test_names_that_are_markup_or_no_text_are_shown_all_the_same(tmp_path):
    name = os.fsdecode(b"<b>\xff&amp;")
    path = tmp_path / f"{name}.png"
    path.write_bytes(b"")
    source = FileSource(
        [ExampleFiles(name, path, None)], make_code(2), description={"kind": "none"}
    )
    partition = Partition((), (0,))
    report = examine(source, source, partition)
    page = doctor_page.make_page(
        report, source, source, partition, palette=PALETTE, title="<i>", root=str(tmp_path)
    )
    assert "&lt;b&gt;?&amp;amp;.png" in page
    assert "<i>" not in page
    page.encode()
    assert json.loads(doctor_report.to_json(report))["faults"][0]["file"] == str(path)
    "\n".join(summary_lines(report.faults)).encode()  # as a terminal would
