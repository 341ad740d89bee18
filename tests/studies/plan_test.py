"""What a study's file becomes: its runs, and which of them have a trunk in common."""

import pytest

from eln_jax.data.classes import ClassList
from eln_jax.errors import UserError
from eln_jax.studies import plan
from eln_jax.studies.study_file import load_study
from tests.configuration_test import CONFIGS
from tests.tiny import FIELDS, QUICKSTART

ALONE = {"steps.supervised": 9, "steps.eln": 0, "steps.semi_supervised": 0}
ERRORS = {"method.simulated_weight": 1.0}
ARMS = {
    "alone": ALONE,
    "none": {"method.gate": "none", "method.eln_in_semi_supervised": False},
    "eln": {"views.cutmix_probability": 0.5},
    "other_eln": ERRORS,
    "opinion": {"model.eln_second_opinion": True},
    "small_eln": {"model.eln_width": 8},
    "all": ALONE | {"data.labeled_count": 12},
}
TWO = {name: ARMS[name] for name in ("none", "eln")}


def write_study(folder, **changes):
    """A study's file on the tiny configuration."""
    fields = {
        "config": QUICKSTART,
        "overrides": FIELDS
        | {"data.partition_seed": "{seed}", "checkpoint.every": "3", "eval.every": "9"},
        "arms": ARMS,
        "seeds": (0, 1),
        "reference": "none",
    }
    path = folder / "study.py"
    path.write_text(f"def get_config(variant=''):\n    return {fields | changes!r}\n")
    return str(path)


def runs_of(folder, given=(), **changes):
    return plan.make_runs(load_study(write_study(folder, **changes)), given)


def by_arm(runs, seed=0):
    return {run.arm: run for run in runs if run.seed == seed and not run.is_trunk}


def test_arms_share_what_their_phases_have_in_common(tmp_path):
    arms = by_arm(runs_of(tmp_path))
    assert list(arms) == list(ARMS)
    shared = arms["eln"].parent
    assert arms["none"].parent is shared
    assert shared.steps == {"eln": 3}
    assert shared.arm == "eln"  # which asks the ELN, as "none" does not
    assert shared.trains_eln
    assert arms["other_eln"].parent is not shared
    # The first phase reads no simulated error and no ELN.
    for name in ("other_eln", "opinion"):
        assert arms[name].parent is not shared
        assert arms[name].parent.parent is shared.parent
    # A trunk's ELN of default width could be built, but not one of the default encoder.
    assert arms["small_eln"].parent.parent is not shared.parent
    assert arms["alone"].parent is shared.parent
    assert arms["all"].parent is None
    assert arms["all"].steps == {"supervised": 9}
    assert arms["alone"].steps == {"supervised": 6}
    assert arms["eln"].steps == {"semi_supervised": 3}
    assert shared.parent.steps == {"supervised": 3}


def test_every_run_follows_the_one_it_begins_from_and_has_a_folder_of_its_own(tmp_path):
    runs = runs_of(tmp_path)
    for i, run in enumerate(runs):
        assert run.parent is None or run.parent in runs[:i]
        assert run.config.seed == run.config.data.partition_seed == run.seed
    assert len({run.folder for run in runs}) == len(runs)


def test_trunks_keep_their_folders_whatever_the_order_of_arms(tmp_path):
    def trunks(*overrides, arms=ARMS):
        return {str(run.folder) for run in runs_of(tmp_path, overrides, arms=arms) if run.is_trunk}

    usual = trunks()
    assert trunks(arms=dict(reversed(ARMS.items()))) == usual
    # Where the data lies, or how it is logged, changes nothing either.
    assert trunks(("log.every", "7")) == usual
    folders = [
        trunks(("data.source", "folder"), ("data.root", root)) for root in ("here", "elsewhere")
    ]
    assert folders[0] == folders[1]
    assert not trunks(("optim.learning_rate", "0.5")) & usual


def test_an_override_beats_the_common_ones_and_an_arm_beats_both(tmp_path):
    arms = by_arm(runs_of(tmp_path, [("steps.supervised", "5")]))
    assert arms["eln"].config.steps.supervised == 5
    assert arms["alone"].config.steps.supervised == 9
    fields = {"data.source": "folder", "data.train_split": "{root}/{seed}"}
    filled = {"overrides": FIELDS | fields}
    config = by_arm(runs_of(tmp_path, [("data.root", "there")], **filled), 1)["eln"].config
    assert config.data.train_split == "there/1"


def test_seeds_and_arms_can_be_chosen(tmp_path):
    runs = runs_of(tmp_path)
    chosen = plan.choose(runs, seeds=[1], arms=["eln", "alone"])
    assert {run.seed for run in chosen} == {1}
    assert list(by_arm(chosen, 1)) == ["alone", "eln"]
    assert chosen == [run for run in runs if run in chosen]
    assert plan.choose(runs, seeds=[0, 1], arms=list(ARMS)) == runs
    # The supervised arm by itself goes through the checkpoint that the others begin from.
    alone = plan.choose(runs, seeds=[0], arms=["alone"])
    assert [str(run.folder.parent.name) for run in alone] == ["trunks", "seed_0"]
    assert alone[0] is by_arm(runs)["eln"].parent.parent


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": {}}, "arms must be a dict that is not empty"),
        ({"arms": 3}, "is no study"),
        ({"seeds": [0]}, "seeds must be a tuple"),
        ({"seeds": (-1,)}, "whole numbers"),
        ({"referense": "eln"}, "Did you mean reference"),
        ({"reference": "nobody"}, "reference 'nobody' is no arm"),
        ({"arms": {"a/b": {}}, "reference": "a/b"}, "so that a folder can be"),
        ({"arms": ARMS | {"eln": {"method.gat": "eln"}}}, "Arm eln: There is no field method.gat"),
        ({"arms": ARMS | {"eln": {"method.gate": "elm"}}}, "Arm eln: method.gate=elm"),
        ({"config": "nowhere.py"}, "no configuration file"),
        ({"arms": {"none": None}}, "the arm none must be {field: value}, not None"),
        ({"arms": {0: {}}}, "the arm 0 must be named"),
        ({"overrides": {3: "a"}}, "3 is no field's name"),
        ({"overrides": {"seed": 5}}, "Arm alone: seed=5 would make all seeds the same"),
        ({"arms": ARMS | {"eln": {"seed": "1"}}}, "Arm eln: seed=1 would make"),
        (
            {"arms": ARMS | {"few": {"data.num_classes": 4}}},
            "seed 0, few has the 4 classes .* seed 0, alone the 6 classes",
        ),
    ],
)
def test_a_mistaken_study_is_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        runs_of(tmp_path, **changes)


def test_the_seed_cannot_be_given_as_a_field(tmp_path):
    with pytest.raises(UserError, match="--seeds"):
        runs_of(tmp_path, [("seed", "5")])


def test_a_study_may_leave_the_common_fields_alone(tmp_path):
    assert load_study(write_study(tmp_path, overrides={})).overrides == {}


def test_masks_are_searched_for_classes_once(tmp_path, monkeypatch):
    asked = []

    def find(data):
        asked.append(data.partition_seed)
        return ClassList(("ground", "thing"), (0, 1), (), ()), "from masks"

    monkeypatch.setattr(plan, "find_classes", find)
    fields = {"data.source": "folder", "data.num_classes": 0, "data.partition_seed": "{seed}"}
    runs = runs_of(tmp_path, [("data.root", "there")], overrides=FIELDS | fields, arms=TWO)
    assert asked == [0, 1]
    assert {run.config.data.class_names for run in runs} == {("ground", "thing")}


def test_without_a_third_phase_the_first_is_shared_and_detectors_cannot_be_compared(tmp_path):
    runs = runs_of(tmp_path, [("steps.semi_supervised", "0")], arms=TWO | {"other": ERRORS})
    (trunk,) = [run for run in runs if run.is_trunk and run.seed == 0]
    assert trunk.steps == {"supervised": 3}
    assert all(run.parent is trunk for run in by_arm(runs).values())
    with pytest.raises(UserError, match=r"--detectors_only: none of these arms has"):
        plan.without_arms(runs)
    both = runs_of(tmp_path, arms=TWO)
    assert plan.without_arms(both) == [run for run in both if run.is_trunk]


def test_an_arm_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no arm 'el'.*Did you mean eln"):
        plan.choose(runs_of(tmp_path), seeds=[0], arms=["el"])


@pytest.mark.parametrize(
    "name",
    [
        *("synthetic", "synthetic:short", "camvid", "camvid:eln", "camvid:official"),
        *("voc_part:eln", "voc_part:official"),
    ],
)
def test_the_studies_that_come_along_can_be_planned(name):
    file, _, variant = name.partition(":")
    study = load_study(str(CONFIGS / f"study_{file}.py") + (variant and f":{variant}"))
    runs = plan.make_runs(study, [] if file == "synthetic" else [("data.root", "there")])
    assert set(by_arm(runs)) == set(study.arms)
    assert len(study.seeds) == 3


def test_the_part_of_voc_has_the_arms_of_camvid_and_classes_of_its_own():
    def load(name):
        return load_study(str(CONFIGS / name))

    voc, camvid = load("study_voc_part.py"), load("study_camvid.py")
    assert list(voc.arms) == list(camvid.arms)
    config = by_arm(plan.make_runs(voc, [("data.root", "VOC")]), 2)["eln"].config
    assert config.data.partition == "VOC/ImageSets/Segmentation/8_labeled_2.txt"
    assert set(config.data.class_ids) | set(config.data.void_labels) == set(range(21))
