"""Every configuration field with its default, unit and the paper's value: the one place to look.

A file in `configs/` starts from `default_config()` and changes what it must. The "official" values
are those of the authors' code (docs/method.md lists them); `apply_official` sets all but
`data.geometry` and `eval.protocol`, which differ by data set.
"""

from typing import Any

from ml_collections import ConfigDict

from eln_jax.errors import UserError, did_you_mean


def default_config() -> Any:
    """Returns the defaults: the paper's method, with the practice that docs/method.md supports."""
    config = _block()
    config.seed = 0  # draws the initial weights, the order of the data and every augmentation
    config.dtype = "float32"  # of the arithmetic: float32 | bfloat16; weights stay float32
    config.crop_size = (512, 512)  # height, width in pixels of a training crop
    config.batch_size_labeled = 6  # labelled images a step, over all devices (paper: 6)
    config.batch_size_unlabeled = 6  # unlabelled images a step, over all devices (paper: 6)
    # Gradient accumulation: parts of a batch that are computed one after another, for less memory;
    # each is a batch of its own to batch norm. Both batch sizes must divide by it.
    config.accumulation = 1
    # Less memory for more arithmetic: keep for the backward pass what goes into each block of a
    # network, and compute what is inside anew.
    config.rematerialize = False
    # Steps of the three phases (paper: 70, 50 and 380 "epochs" of 266 steps).
    config.steps = ConfigDict({"supervised": 18_620, "eln": 13_300, "semi_supervised": 101_080})
    # Also train with the labelled images alone for the same number of steps, to compare.
    config.compare_supervised = False
    # Split parameters, teacher and the optimiser's state over all devices (FSDP), for networks too
    # large for the memory of one. Same results up to rounding; a step takes more communication.
    config.shard_state = False
    config.model = _model()
    config.data = _data()
    config.method = _method()
    config.views = _views()
    config.optim = _optim()
    config.eval = _eval()
    config.log = _log()
    config.checkpoint = _block()
    config.checkpoint.every = 1000  # steps between checkpoints
    config.checkpoint.keep = 2  # latest checkpoints kept, beside the best one
    # A step is bad if its loss or gradient is not finite, or its loss above the limit. Its batch is
    # kept in workdir/diverged.
    config.divergence = _block()
    config.divergence.loss_limit = 0.0  # 0: none
    # Bad steps that change no weights and the run outlives, in all; one more stops it. 0: the first
    # one does.
    config.divergence.max_skipped_steps = 0
    return config


def _block() -> Any:
    # Not typed as ConfigDict, whose attributes may be of any type, which no type checker follows.
    return ConfigDict()


def _model() -> Any:
    model = _block()
    # resnet_tiny, resnet18, 34, 50, 101, efficientnet_lite0, efficientnet_lite1, efficientnet_lite2
    model.encoder = "resnet50"  # (paper: resnet50 and resnet101)
    # official: as the authors' code; torchvision: DeepLabV3+ as most PyTorch codes have it, with a
    # smaller decoder and without multi-grid; checkpoints of those can be converted.
    model.architecture = "official"
    model.output_stride = 16  # pixels per deepest feature: 8 | 16 (paper: 16)
    model.pretrained = "imagenet"  # encoder weights: "" (random) | "imagenet" | a file
    # K decoders that make mistakes for the ELN to find (paper: 2); with 0 it learns from the main
    # decoder's mistakes alone, in much less time.
    model.num_aux_decoders = 2
    model.width = 256  # channels of ASPP, decoder and heads (paper: 256)
    model.low_width = 48  # channels of the low-level features in the decoder (paper: 48)
    model.embedding_size = 128  # channels of the contrastive embedding (paper: 128)
    model.dropout = (0.1, 0.5, 0.1)  # after ASPP, first and second decoder convolution (paper)
    model.eln_encoder = "resnet34"  # encoder of the ELN (paper: resnet34)
    model.eln_width = 256  # channels of the ELN's ASPP and decoder (paper: 256)
    model.eln_dropout = (0.5, 0.5, 0.1)  # as `dropout`, in the ELN (paper)
    # image_and_logits (paper) | image_and_probabilities | logits (no image); each with the entropy
    model.eln_input = "image_and_logits"
    # The ELN's encoder sees the image alone and stays as it is; the prediction joins its features.
    # Less to overfit with few labels, and a cheaper step. It wants pretrained weights.
    model.eln_frozen_encoder = False  # (paper: trained, and sees the prediction)
    # The ELN segments the image itself; P(right) is the mean of both log odds of the predicted
    # class, each calibrated by class (docs/method.md). Auxiliary decoders then only cost time: give
    # num_aux_decoders=0 and method.loss_ceilings=() with it.
    model.eln_second_opinion = False  # (paper: it judges from the image and the prediction)
    model.eln_pretrained = "imagenet"  # as `pretrained`, for the ELN
    # First convolution of the ELN, which sees more channels than an image: "random" (official), or
    # "pretrained": the image's channels from the pretrained weights, the new ones small.
    model.eln_stem = "pretrained"
    return model


def _data() -> Any:
    data = _block()
    # folder | voc | cityscapes | camvid (in their published layouts) | records (as
    # eln_jax.data.prepare made them; root is DATA_DIR/NAME/VERSION) | synthetic
    data.source = "folder"
    data.root = ""  # folder that holds the data set
    data.num_classes = 21  # without void; 0: as data.classes says, or as the masks show
    # Folder source: file with a line a class, "ID NAME [#rrggbb]"; empty: classes.txt in data.root
    # if it is there. It fills in the class fields below.
    data.classes = ""
    data.class_names = ()  # shown in tables; empty: class 0, class 1, ...
    data.class_ids = ()  # folder source: stored id of each class; empty: 0, 1, 2, ...
    data.class_colors = ()  # folder source: "#rrggbb" of each class, if masks store colours
    data.void_colors = ()  # folder source: "#rrggbb" of void
    data.ignore_label = 255  # id of void pixels: no loss, no score
    data.void_labels = ()  # folder source: further mask values that mean void
    data.images = "images"  # folder source: images under root, with train/ and val/ inside
    data.masks = "masks"  # folder source: masks under root, with the same names as the images
    data.train_split = "train"  # name of the training split
    data.val_split = "val"  # name of the validation split
    # Folder source: take the validation images out of the training split (or of all images, where
    # there is no folder of its name) instead, by a file with an id a line or by a share of those
    # that have a mask.
    data.val_list = ""
    data.val_fraction = 0.0
    # Which training images count as labelled. A file with an id a line; the stem of a pair of files
    # as "partitions/8_labeled_0"; a published pair as "ssl_eln/voc/8_labeled_0" (fetched; names in
    # eln_jax/data/protocols.json); empty: drawn by seed, as many as the next fields say.
    data.partition = ""
    data.labeled_fraction = 0.125  # of the training images with a mask, without a partition (1/8)
    data.labeled_count = 0  # number of labelled images instead of a fraction; 0: the fraction
    data.labeled_balanced = False  # draw so that rare classes are among them; reads all masks
    data.partition_seed = 0  # of the draw
    # Geometry of the training crop: "scale_crop" | "crop" | "warp" (official VOC: warp to the crop
    # size, image and label; official Cityscapes: crop).
    data.geometry = "scale_crop"
    data.scale_range = (0.5, 2.0)  # of "scale_crop"
    data.flip = 0.5  # probability of a horizontal flip (paper: 0.5)
    # Training images or masks, labelled and unlabelled ones apart, that each process may find
    # damaged: others take their place, and the screen says so; one more stops the run.
    data.max_unreadable = 10
    data.workers = 0  # processes that read and augment; 0: threads of this process alone
    data.threads = 4  # threads that read and augment, in each process
    data.simulated = _block()  # errors made on labels for the ELN, if method.simulated_weight > 0
    data.simulated.error_rate = (0.05, 0.3)  # share of wrong pixels, drawn for each image
    # Which ops are composed (docs/simulated_errors.md shows each); empty: all.
    data.simulated.ops = ()
    # What swap_component takes a class for: "measured" (as the main decoder does on the labelled
    # images when the ELN's phase begins) | "uniform" (any other).
    data.simulated.confusion = "measured"
    data.synthetic = _block()
    data.synthetic.train_size = 256  # training scenes of the synthetic source
    data.synthetic.val_size = 64  # validation scenes
    data.synthetic.image_size = (96, 96)  # height, width in pixels
    data.synthetic.seed = 0  # of the scenes: another seed is another data set
    return data


def _method() -> Any:
    method = _block()
    # Weights of the terms (paper: 1 each).
    method.supervised_weight = 1.0
    method.aux_weight = 1.0
    method.eln_weight = 1.0
    method.pseudo_label_weight = 1.0
    # With contrastive_form "info_nce" 1 would be ten times as strong as the official form.
    method.contrastive_weight = 0.1  # [1]
    # Of the ELN's loss on simulated errors, as a share of eln_weight; 0: none made (paper: none).
    method.simulated_weight = 0.0
    # An auxiliary decoder learns only while its loss is at least this multiple of the main one's.
    method.loss_ceilings = (20.0, 50.0)  # one a decoder (paper: 20 and 50)
    method.temperature = 0.5  # of the contrastive loss, 0.03 or more (paper: 0.5)
    method.contrastive_windows = 8  # random windows of the stride-4 map a step (paper: 8)
    method.contrastive_window_size = 32  # side of a window, in cells of that map (paper: 32)
    method.ema_decay = 0.995  # of the teacher, a step (paper: 0.995)
    # Which pseudo-labels are kept, by a score in [0, 1] of each (docs/method.md, Gates):
    # none (all) | confidence (maximum probability) | entropy (1 - normalised entropy) | margin
    # (highest probability less the second) | eln (its P(right)) | eln_and_confidence (both) |
    # class_calibrated (P(right) by a logistic regression for each predicted class on the class
    # probabilities, fitted to the labelled images as training goes) | oracle (reads the truth of
    # the unlabelled images: for measuring the ceiling alone).
    method.gate = "eln"
    # threshold: keep scores above gate_threshold | quantile: keep the gate_fraction of a batch that
    # scores best | class_quantile: keep that share of the pixels of each predicted class |
    # class_floor: keep what either of threshold and class_quantile keeps | soft: weigh the loss by
    # the score (the contrast keeps scores above the threshold).
    method.gate_mode = "threshold"
    # 0: the gate's own: eln 0.5, eln_and_confidence 0.5, confidence 0.95, entropy 0.9, margin 0.9,
    # class_calibrated 0.9.
    method.gate_threshold = 0.0  # (paper: 0.5 on the ELN's P(right))
    method.gate_fraction = 0.8  # of "quantile", "class_quantile" and "class_floor", above 0
    method.gate_confidence = 0.95  # eln_and_confidence: the maximum probability must exceed it
    # Steps between the fits of calibrated gates, and of the comparison with a second opinion.
    method.gate_fit_every = 100
    # A second strong view, with a draw and boxes of its own; the mean of both counts (UniMatch).
    method.second_strong_view = False  # (paper: none)
    # Share of the encoder's channels dropped in a further pass on the weak view, which learns the
    # same pseudo-labels (UniMatch: 0.5); 0: no such pass.
    method.feature_dropout = 0.0  # (paper: none)
    # Auxiliary decoders and ELN go on learning in the third phase; False: they rest, which saves
    # time and changes nothing where the gate does not ask the ELN.
    method.eln_in_semi_supervised = True  # (paper: they go on)
    # Class weights of the supervised loss: "none" (paper) | "sqrt" (inverse square root of the
    # class's share of the labelled pixels, mean 1).
    method.class_balance = "none"
    # What the authors' code does otherwise (docs/method.md); its value stands in brackets.
    method.void_is_error = False  # [True] void pixels count as errors in the ELN's target
    method.max_error_weight = 100.0  # [0] bound of N_correct / N_error in the ELN's loss; 0: none
    method.student_reset_every = 0  # [266] steps between resets of student to teacher; 0: never
    method.pseudo_label_batch_stats = False  # [True] teacher and ELN use batch statistics
    method.average_batch_stats = True  # [False] teacher's running statistics follow the average
    # [True] running statistics, by which networks are used later, move by auxiliary and simulated
    # predictions (in the ELN) and by strong views (in the student) as well.
    method.record_all_batch_stats = False
    method.train_norm = True  # [False] batch-norm scale and offset of encoder, decoders are trained
    method.contrastive_form = "info_nce"  # ["official"] teacher rows, one logarithm a class
    return method


def _views() -> Any:
    """The strong view of an unlabelled image, made on the accelerator from the weak one."""
    views = _block()
    views.jitter_probability = 1.0  # of the colour jitter (official: 1)
    views.brightness = 0.4  # largest relative change (official: 0.4)
    views.contrast = 0.4  # largest relative change (official: 0.4)
    views.saturation = 0.4  # largest relative change (official: 0.4)
    views.hue = 0.1  # largest shift, in turns of the colour circle (official: 0.1)
    views.grey_probability = 0.2  # (official: 0.2)
    views.blur_probability = 0.5  # of a Gaussian blur [official: 0]
    views.blur_sigma = (0.1, 2.0)  # pixels
    views.cutmix_probability = 0.0  # of pasting a box of another image [official: 0]
    return views


def _optim() -> Any:
    optim = _block()
    optim.name = "adamw"  # adamw | sgd (paper: adamw)
    optim.learning_rate = 1e-4  # (paper: 1e-4)
    optim.encoder_factor = 0.1  # encoders' learning rate as a share of it (paper: 0.1)
    optim.weight_decay = 1e-5  # on every trained weight; decoupled in adamw (paper: 1e-5)
    optim.momentum = 0.9  # of sgd
    optim.schedule = "constant"  # constant | poly | cosine (paper: constant)
    optim.power = 0.9  # of the poly schedule
    optim.warmup_steps = 0  # of a linear rise of the learning rate at the start
    optim.clip_norm = 0.0  # bound of a network's gradient norm; 0: none
    return optim


def _eval() -> Any:
    evaluation = _block()
    evaluation.every = 1000  # steps between evaluations; each phase ends with one as well
    evaluation.batch_size = 4  # images of equal size at a time, over all devices
    evaluation.max_images = 0  # evaluate the first so many validation images; 0: all
    # "original": images and labels at original size; "warp": both warped to the crop size, as the
    # official code evaluates VOC.
    evaluation.protocol = "original"
    return evaluation


def _log() -> Any:
    log = _block()
    log.every = 50  # steps between rows of metrics.jsonl
    log.panel_images = 6  # validation images drawn at each evaluation
    log.tensorboard = True  # also write TensorBoard's files
    return log


def check_variant(variant: str, known: tuple[str, ...] = ()) -> None:
    """Refuses a variant of a configuration file that it does not have.

    Raises:
        UserError: naming those it has.
    """
    if variant and variant not in known:
        listed = f"it has {', '.join(known)}" if known else "it has none"
        raise UserError(
            f"The configuration has no variant {variant!r}; {listed}."
            + did_you_mean(variant, known)
        )


def apply_official(config: Any) -> Any:
    """Sets the fields in which the authors' code differs, whatever the data; returns `config`."""
    config.dtype = "bfloat16"  # theirs: float16 mixed precision
    config.model.eln_stem = "random"
    method = config.method
    method.void_is_error = True
    method.max_error_weight = 0.0
    method.student_reset_every = 266
    method.pseudo_label_batch_stats = True
    method.average_batch_stats = False
    method.record_all_batch_stats = True
    method.train_norm = False
    method.contrastive_form = "official"
    method.contrastive_weight = 1.0
    config.views.blur_probability = 0.0
    config.views.cutmix_probability = 0.0
    return config


def apply_laptop(config: Any) -> Any:
    """Sets what lets two CPU cores train on real images in an hour or two; returns `config`."""
    config.crop_size = (256, 256)
    config.batch_size_labeled = 8
    config.batch_size_unlabeled = 8
    config.model.encoder = "efficientnet_lite0"
    config.model.eln_encoder = "efficientnet_lite0"
    config.model.width = 128
    config.model.embedding_size = 64
    config.model.eln_width = 64
    config.method.class_balance = "sqrt"
    # With the paper's 20 and 50 the auxiliary decoders never learn in so few steps: the bounds lie
    # above the loss that they start from.
    config.method.loss_ceilings = (2.0, 4.0)
    # Two small windows a step: the paper's eight of 32x32 cost more than the networks on a CPU.
    config.method.contrastive_windows = 2
    config.method.contrastive_window_size = 16
    config.optim.learning_rate = 2e-3
    config.optim.encoder_factor = 0.2
    config.optim.schedule = "poly"
    config.log.every = 10
    return config
