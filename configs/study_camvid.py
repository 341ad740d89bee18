"""Gates side by side on CamVid with 45 of 367 labels (1/8), three partitions.

    python -m eln_jax.study --config=configs/study_camvid.py --output=runs/study_camvid \
        --config.data.root=CAMVID

CAMVID is as configs/camvid.py says, with a folder partitions as docs/results/partitions/camvid.
Crops and batches are small, so that an arm takes 9 to 25 minutes of one CPU core, and what arms
share 14 to 44 a seed; --seeds=0 --arms=none,eln takes a part of the study, and the same command
without goes on with the rest.

The variant "eln" compares ways to train the ELN, "official" the authors' choices one by one, each
against the gate of ELN's P(right) > 0.5.
"""

from eln_jax.defaults import check_variant

STEPS = {"supervised": 450, "eln": 300, "semi_supervised": 150}

# The ELN that segments the image itself and compares; it needs no auxiliary decoders.
MAIN_ALONE = {"model.num_aux_decoders": 0, "method.loss_ceilings": ()}
OPINION = {"model.eln_second_opinion": True} | MAIN_ALONE

# The same from pretrained features that stay as they are.
FROZEN_OPINION = OPINION | {"model.eln_frozen_encoder": True}

# The ELN rests where the gate does not ask it: the student is the same, in less time.
RESTING = {"method.eln_in_semi_supervised": False} | OPINION

# The best share of each predicted class is kept: 0.8 of it, or half.
OF_EACH_CLASS = {"method.gate_mode": "class_quantile"}
HALF = {"method.gate_fraction": 0.5}

# What the threshold keeps, and of each predicted class the best half in any case.
AT_LEAST_HALF = {"method.gate_mode": "class_floor"} | HALF

SUPERVISED = {"steps.supervised": sum(STEPS.values()), "steps.eln": 0, "steps.semi_supervised": 0}

# The labels alone once more, with a teacher, which averages weights, as the gates have one.
AVERAGED = {
    "steps.supervised": STEPS["supervised"] + STEPS["eln"],
    "steps.eln": 0,
    "method.gate": "none",
    "method.pseudo_label_weight": 0.0,
    "method.contrastive_weight": 0.0,
}

ALL_LABELS = SUPERVISED | {"data.partition": "", "data.labeled_fraction": 1.0}

# The ELN whose encoder keeps its pretrained weights and sees no prediction.
FROZEN = {"model.eln_frozen_encoder": True, "model.eln_input": "image_and_probabilities"}

GATES = {
    "supervised_only": SUPERVISED,
    "supervised_averaged": AVERAGED | RESTING,
    "none": {"method.gate": "none"} | RESTING,
    "confidence": {"method.gate": "confidence"} | RESTING,
    "confidence_80": {"method.gate": "confidence", "method.gate_mode": "quantile"} | RESTING,
    "entropy_80": {"method.gate": "entropy", "method.gate_mode": "quantile"} | RESTING,
    "margin": {"method.gate": "margin"} | RESTING,
    "class_calibrated": {"method.gate": "class_calibrated"} | RESTING,
    "oracle": {"method.gate": "oracle"} | RESTING,
    # The paper's ELN, and then ours.
    "eln": {"method.gate": "eln"},
    "opinion": {"method.gate": "eln"} | OPINION,
    "opinion_80": {"method.gate": "eln", "method.gate_mode": "quantile"} | OPINION,
    "opinion_each_80": {"method.gate": "eln"} | OF_EACH_CLASS | OPINION,
    "opinion_each_50": {"method.gate": "eln"} | OF_EACH_CLASS | HALF | OPINION,
    "opinion_floor_50": {"method.gate": "eln"} | AT_LEAST_HALF | OPINION,
    "opinion_frozen_encoder": {"method.gate": "eln"} | FROZEN_OPINION,
    "opinion_frozen_encoder_floor_50": {"method.gate": "eln"} | AT_LEAST_HALF | FROZEN_OPINION,
    "class_calibrated_floor_50": {"method.gate": "class_calibrated"} | AT_LEAST_HALF | RESTING,
    "opinion_soft": {"method.gate": "eln", "method.gate_mode": "soft"} | OPINION,
    "opinion_and_confidence": {"method.gate": "eln_and_confidence"} | OPINION,
    "all_labels": ALL_LABELS,
}

# Each has an ELN's phase of its own.
ELNS = {
    "eln": {},
    "no_ceilings": {"method.loss_ceilings": (0.0, 0.0)},
    "simulated": {"method.simulated_weight": 1.0},
    "simulated_no_ceilings": {"method.simulated_weight": 1.0, "method.loss_ceilings": (0.0, 0.0)},
    "wider": {"model.eln_width": 128},
    "no_pretraining": {"model.eln_pretrained": ""},
    "probabilities": {"model.eln_input": "image_and_probabilities"},
    "no_image": {"model.eln_input": "logits"},
    "frozen_encoder": FROZEN,
    "frozen_encoder_simulated": FROZEN | {"method.simulated_weight": 1.0},
    "main_alone": MAIN_ALONE,
    "opinion": OPINION,
    "opinion_frozen_encoder": FROZEN_OPINION,
}

# The authors' choices (docs/method.md) but for the type of numbers, which a CPU has no other of.
CHOICES = {
    "void_is_error": {"method.void_is_error": True},
    # Theirs, every 266 steps, would not come within the third phase.
    "student_reset": {"method.student_reset_every": 50},
    "batch_stats": {
        "method.pseudo_label_batch_stats": True,
        "method.average_batch_stats": False,
    },
    "record_all_batch_stats": {"method.record_all_batch_stats": True},
    "norm_not_trained": {"method.train_norm": False},
    "official_contrast": {
        "method.contrastive_form": "official",
        "method.contrastive_weight": 1.0,
    },
    "unbounded_error_weight": {"method.max_error_weight": 0.0},
    "random_stem": {"model.eln_stem": "random"},
    "no_blur": {"views.blur_probability": 0.0},
    "warp": {"data.geometry": "warp", "eval.protocol": "warp"},
}

OFFICIAL = {
    "ours": {},
    **CHOICES,
    "no_contrast": {"method.contrastive_weight": 0.0},
    "all_choices": {name: value for arm in CHOICES.values() for name, value in arm.items()},
}

VARIANTS = {"": (GATES, "none"), "eln": (ELNS, "eln"), "official": (OFFICIAL, "ours")}


def get_config(variant: str = ""):
    """Returns the study."""
    check_variant(variant, ("eln", "official"))
    arms, reference = VARIANTS[variant]
    return {
        "config": "camvid.py",
        "overrides": {
            "data.partition": "{root}/partitions/8_labeled_{seed}",
            "batch_size_labeled": 4,
            "batch_size_unlabeled": 4,
            # Half the decoder of configs/camvid.py: semi-supervised steps take 0.6 of the time.
            "model.width": 64,
            **{f"steps.{phase}": count for phase, count in STEPS.items()},
            # A teacher that follows within a run as short as this.
            "method.ema_decay": 0.98,
            "views.cutmix_probability": 0.5,
            "eval.every": 75,
            "checkpoint.every": 50,
            "checkpoint.keep": 1,
            "log.panel_images": 2,
            "log.tensorboard": False,
        },
        "seeds": (0, 1, 2),
        "reference": reference,
        "arms": arms,
    }
