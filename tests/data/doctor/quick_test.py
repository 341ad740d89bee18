from eln_jax.data.doctor import quick_check, would_stop
from eln_jax.training.checkup import open_all
from tests.data.doctor.spoiled import CROP, World, bands, small


def test_quick_check_ends_in_time_and_says_so(tmp_path):
    world = World(tmp_path)
    small(world, "b")
    train, val, partition, _ = open_all(world.data())
    assert [fault.fault for fault in quick_check(train, val, partition, CROP)] == [
        "smaller than the crop"
    ]
    ticks = iter(range(100))
    (fault,) = quick_check(train, val, partition, None, clock=lambda: next(ticks), max_seconds=3)
    assert (fault.fault, fault.detail) == ("check incomplete", "3 of 13 images looked at")


def test_damaged_files_stop_a_training_where_nothing_can_take_their_place(tmp_path):
    world = World(tmp_path)
    for name in ("b", "l", "w"):  # labelled, unlabelled, to validate
        world.image[name].write_bytes(b"")
    for name in ("c", "x"):
        world.mask[name].write_bytes(b"")
    world.save_mask("d", bands((20, 30)))
    train, val, partition, _ = open_all(world.data())
    faults = quick_check(train, val, partition, CROP)
    assert len(faults) == 6
    fatal = {fault.file for fault in would_stop(faults, val, partition)}
    assert fatal == {str(world.image["w"]), str(world.mask["x"]), str(world.mask["d"])}


def test_masks_of_no_image_are_told_and_stop_no_training(tmp_path):
    world = World(tmp_path)
    stray = world.mask["b"].with_name("nobody.png")
    stray.write_bytes(b"whose?")
    train, val, partition, _ = open_all(world.data())
    faults = quick_check(train, val, partition, CROP)
    told = [(f.fault, f.file, f.severity) for f in faults]
    assert told == [("mask without image", str(stray), "warning")]
    assert not would_stop(faults, val, partition)
