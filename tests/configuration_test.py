import subprocess
import sys
from pathlib import Path

import pytest

from eln_jax import command_line, config_fields, configuration
from eln_jax.defaults import apply_official, default_config
from eln_jax.errors import UserError
from eln_jax.training.workdir import differences

CONFIGS = Path(__file__).parent.parent / "configs"
QUICKSTART = str(CONFIGS / "quickstart.py")


@pytest.mark.parametrize(
    "name",
    ["quickstart", "quickstart:short", "camvid", "folder", "voc", "voc:official", "voc:8gb",
     "voc:80gb", "cityscapes", "cityscapes:official"],
)  # fmt: skip
def test_every_config_passes_its_own_check(name):
    file, _, variant = name.partition(":")
    root = [] if file == "quickstart" else [("data.root", "somewhere")]
    configuration.load(f"{CONFIGS / file}.py:{variant}", root)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.py")), ids=lambda p: p.stem)
def test_an_unknown_variant_is_refused(file):
    with pytest.raises(UserError, match="no variant 'offical'"):
        configuration.load(f"{file}:offical", [("data.root", "somewhere")])


def test_the_nearest_variant_is_named():
    with pytest.raises(UserError, match=r"Did you mean official\?"):
        configuration.load(f"{CONFIGS / 'voc.py'}:offical", [("data.root", "somewhere")])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("c.optim.learnig_rate = 1.0", "There is no field optim.learnig_rate. Did you mean"),
        ("c.steps.elm = 5", "There is no field steps.elm"),
        ("del c.seed", "has no seed"),
        ("c = c.copy_and_resolve_references(); c.data = 3", "c.py, line 4"),
        ("import nothing_of_this_name", "line 4: ModuleNotFoundError"),
        ("c ==", "line 4: SyntaxError"),
    ],
)
def test_a_mistake_in_a_config_file_is_one_sentence(tmp_path, body, words):
    path = tmp_path / "c.py"
    path.write_text(
        "from eln_jax.defaults import default_config\n"
        "def get_config(variant=''):\n    c = default_config()\n"
        f"    {body}\n    return c\n"
    )
    with pytest.raises(UserError) as error:
        configuration.load(str(path), [("data.root", "somewhere")])
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("optim.learning_rate", "3e-4", 3e-4),
        ("optim.learning_rate", "1", 1.0),
        ("crop_size", "(64, 128)", (64, 128)),
        ("crop_size", "[64, 128]", (64, 128)),
        ("method.train_norm", "False", False),
        ("data.partition", "lists/8_labeled_0", "lists/8_labeled_0"),
        ("data.class_names", "a, b,c,d,e,f", ("a", "b", "c", "d", "e", "f")),
        ("steps.eln", "7", 7),
    ],
)
def test_an_override_is_read_as_the_type_of_its_field(name, text, value):
    config = configuration.load(QUICKSTART, [(name, text)])
    assert config_fields.get(config, name) == value


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("optim.learning_rat", "1", "Did you mean optim.learning_rate?"),
        ("learning_rate", "1", "Did you mean optim.learning_rate?"),
        ("optim.lr", "1", "Did you mean optim.learning_rate?"),
        ("optim", "1", "block of fields"),
        ("steps.eln", "many", "whole number"),
        ("steps.eln", "1.5", "whole number"),
        ("optim.learning_rate", "fast", "a number"),
        ("method.train_norm", "1", "true or false"),
        ("crop_size", "64", "tuple"),
        ("crop_size", "(60, 64)", "does not fit the stride: 60"),
        ("crop_size", "(8, 8)", "32 or more"),
        ("crop_size", "(64,)", "2 whole numbers"),
        ("crop_size", "('a', 64)", "2 whole numbers"),
        ("data.scale_range", "(1.0,)", "2 numbers"),
        ("data.void_labels", "('x',)", "whole numbers"),
        ("data.synthetic.image_size", "(96,)", "2 whole numbers"),
        ("data.class_names", "a,a,b,c,d,e", "different"),
        ("data.class_names", "(1, 2)", "names"),
        ("data.partition_seed", "-1", "0 or more"),
        ("seed", "2147483648", "below 2**31"),
        ("method.temperature", "0.01", "at least 0.03"),
        ("method.loss_ceilings", "('a', 1)", "numbers"),
        ("optim.learning_rate", "inf", "finite"),
        ("optim.warmup_steps", "100000", "fewer than"),
        ("model.encoder", "resnet51", "Did you mean resnet50?"),
        ("model.num_aux_decoders", "3", "method.loss_ceilings"),
        ("model.num_aux_decoders", "-1", "0 or more"),
        ("model.dropout", "(0.1, 1.5, 0)", "three rates"),
        ("method.gate", "elm", "Did you mean eln?"),
        ("method.ema_decay", "1.5", "between 0 and 1"),
        ("method.average_batch_stats", "false", "stale"),
        ("steps.supervised", "0", "at least 1"),
        ("steps.eln", "0", "trained ELN"),
        ("data.num_classes", "1", "between 2 and 254"),
        ("data.ignore_label", "3", "outside"),
        ("data.class_names", "('a', 'b')", "2 names"),
        ("data.source", "folder", "data.root is empty"),
        ("data.root", "my_images", "take --config=configs/folder.py"),
        ("views.blur_sigma", "(2.0, 1.0)", "rising"),
        ("data.scale_range", "(0.0, 1.0)", "rising"),
        ("optim.learning_rate", "0", "greater than 0"),
        ("eval.max_images", "-1", "0 or more"),
        ("data.simulated.ops", "coarsen,blotchs", "'blotchs', which is no simulated error"),
        ("data.simulated.ops", "coarsen,blotchs", "Did you mean blotches?"),
        ("data.simulated.error_rate", "(0.3, 0.1)", "two rising shares"),
        ("data.simulated.error_rate", "(0.3, 1.1)", "two rising shares"),
        ("data.simulated.confusion", "measure", "Did you mean measured?"),
        ("data.void_labels", "(11,)", "needs data.source=folder"),
        ("model.num_aux_decoders", "0", "method.loss_ceilings"),
        ("crop_size", "(64, 65)", "one more in both"),
        ("views.blur_sigma", "(0.1, 100.0)", "at most 20"),
        ("batch_size_unlabeled", "1", "pastes boxes of other images"),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(name, text, words):
    with pytest.raises(UserError) as error:
        configuration.load(QUICKSTART, [(name, text)])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data.partition": "lists/a", "data.labeled_count": "3"}, "give one of the two"),
        ({"data.partition": "lists/a", "data.labeled_balanced": "true"}, "give one of the two"),
        ({"steps.eln": "0", "steps.semi_supervised": "0"}, "nothing to compare with"),
        (
            {"model.eln_second_opinion": "true", "method.simulated_weight": "1"},
            "learns from labels alone",
        ),
        (
            {"model.eln_second_opinion": "true", "model.eln_input": "image_and_probabilities"},
            "sees the image alone",
        ),
        (
            {"model.eln_frozen_encoder": "true", "model.eln_input": "logits"},
            "needs the image",
        ),
        ({"model.eln_frozen_encoder": "true", "model.eln_pretrained": ""}, "random weights"),
        ({"method.simulated_weight": "1", "method.eln_weight": "0"}, "of which it is a share"),
        ({"method.gate": "eln", "method.eln_weight": "0"}, "needs a trained ELN"),
        (
            {"method.gate": "eln_and_confidence", "method.gate_mode": "class_floor"},
            "cannot keep its share",
        ),
        ({"method.gate": "none", "method.gate_threshold": "0.5"}, "says nothing"),
        ({"method.gate_mode": "quantile", "method.gate_threshold": "0.5"}, "says nothing"),
        ({"batch_size_unlabeled": "2", "accumulation": "2"}, "leave one at a time"),
        (
            {
                "model.architecture": "torchvision",
                "batch_size_labeled": "2",
                "batch_size_unlabeled": "4",
                "accumulation": "2",
            },
            "two images or more",
        ),
    ],
)
def test_fields_that_contradict_one_another_are_refused(overrides, words):
    with pytest.raises(UserError, match=words):
        configuration.load(QUICKSTART, list(overrides.items()))


def test_no_labelled_image_is_refused():
    none = [("data.labeled_count", "0"), ("data.labeled_fraction", "0")]
    with pytest.raises(UserError, match="No image is labelled"):
        configuration.load(QUICKSTART, none)


def test_a_missing_config_file_names_the_nearest():
    with pytest.raises(UserError, match=r"Did you mean .*quickstart\.py"):
        configuration.load(str(CONFIGS / "quickstrat.py"))


def test_a_variant_of_no_file():
    with pytest.raises(UserError, match="names no file"):
        configuration.load(":tiny")


def test_a_folder_is_no_config_file(tmp_path):
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(UserError, match=r"is a folder: give one of its \.py files \(mine\.py\)"):
        configuration.load(str(tmp_path))


def test_a_config_without_get_config(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("x = 1\n")
    with pytest.raises(UserError, match="get_config"):
        configuration.load(str(path))


def test_overrides_are_told_from_other_flags():
    rest, overrides = command_line.split_overrides(
        ["--config=a.py", "--config.seed=3", "--workdir", "w", "--config.steps.eln", "5"]
    )
    assert rest == ["--config=a.py", "--workdir", "w"]
    assert overrides == [("seed", "3"), ("steps.eln", "5")]
    with pytest.raises(UserError, match="needs a value"):
        command_line.split_overrides(["--config.seed"])
    with pytest.raises(UserError, match=r"--config\.=3 names no field"):
        command_line.split_overrides(["--config.=3"])


def test_official_changes_only_what_it_names():
    changes = differences(default_config().to_dict(), apply_official(default_config()).to_dict())
    assert {change.split(":")[0] for change in changes} == {
        "dtype",
        "model.eln_stem",
        "method.void_is_error",
        "method.max_error_weight",
        "method.student_reset_every",
        "method.pseudo_label_batch_stats",
        "method.average_batch_stats",
        "method.record_all_batch_stats",
        "method.contrastive_weight",
        "method.train_norm",
        "method.contrastive_form",
        "views.blur_probability",
    }


def test_every_number_has_bounds():
    elsewhere = {
        "data.num_classes",
        "data.ignore_label",
        "model.output_stride",
        "views.hue",
    }
    checked = elsewhere.union(
        config_fields.AT_LEAST_ONE,
        config_fields.NOT_NEGATIVE,
        config_fields.POSITIVE,
        config_fields.WITHIN_ZERO_AND_ONE,
    )
    config = default_config()
    for name in config_fields.field_names(config):
        value = config_fields.get(config, name)
        assert name in checked or type(value) not in (int, float), name


def test_a_config_that_returns_nothing_is_refused_whatever_the_overrides(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("def get_config(variant=''):\n    pass\n")
    with pytest.raises(UserError, match="must return a ConfigDict; it returns None"):
        configuration.load(str(path), [("seed", "1")])


def test_a_study_is_no_configuration():
    with pytest.raises(UserError) as error:
        configuration.load(str(CONFIGS / "study_camvid.py"))
    assert str(error.value).endswith(
        "is the file of a study: give it to python -m eln_jax.study, with --output=DIR."
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(variant=''):\n    return {'a': 1}\n", "it returns a dict."),
        ("def get_config():\n    return None\n", "write def get_config(variant='')"),
        ("get_config = 3\n", "write def get_config(variant='')"),
    ],
)
def test_what_get_config_must_be_is_told(tmp_path, text, words):
    path = tmp_path / "c.py"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        configuration.load(str(path))
    assert words in str(error.value)


def test_checked_names_exist():
    config = default_config()
    names = set(config_fields.field_names(config))
    for group in (
        config_fields.CHOICES,
        config_fields.AT_LEAST_ONE,
        config_fields.NOT_NEGATIVE,
        config_fields.POSITIVE,
        config_fields.WITHIN_ZERO_AND_ONE,
    ):
        assert set(group) <= names


def test_every_encoder_can_be_chosen():
    from eln_jax.models.encoders import ENCODERS

    assert set(config_fields.CHOICES["model.encoder"]) == set(ENCODERS)


def test_configuration_needs_no_jax():
    probe = "import sys, eln_jax.configuration; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", probe], cwd=CONFIGS.parent, check=True)
