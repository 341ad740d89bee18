"""Every step against a few lines of NumPy, with stand-ins for the networks.

The stand-ins are linear, centre their input as batch norm would, and see every second pixel. They
compute with NumPy arrays (float64) as well as with JAX's, and record how they are called. The
strong view swaps the colours. Unless a test says otherwise the optimiser is SGD with learning rate
1: old minus new parameters are the gradient.
"""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eln_jax.defaults import default_config
from eln_jax.method import simulated, state, steps, views

LABELED, UNLABELED, SIZE, CLASSES, VOID = 2, 3, 5, 3, 255
# Only what comes later moves the running statistics: no strong views, no auxiliary predictions.
STUDENT_GROUPS = (LABELED, UNLABELED, (UNLABELED, False))
ELN_GROUPS = ((LABELED, False), (LABELED, False), LABELED)
WEIGHTS = ("supervised", "aux", "eln", "pseudo_label", "contrastive")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
ELN_MEAN, ELN_STD = (0.3, 0.2, 0.1), (0.5, 0.4, 0.2)


# Stand-ins: (params, running mean, inputs...) -> output, running mean after the call.


def centred(x, mean, train, groups):
    """Subtracts the running mean; in training each group's own, which then moves the former."""
    if not train:
        return x - mean.reshape(1, 1, 1, -1), mean
    groups = [g if isinstance(g, tuple) else (g, True) for g in groups or (len(x),)]
    ends = np.cumsum([size for size, _ in groups])
    assert ends[-1] == len(x)
    parts = []
    for start, end, (_, recorded) in zip([0, *ends], ends, groups, strict=False):
        own = x[start:end].mean((0, 1, 2), keepdims=True)
        parts.append(x[start:end] - own)
        if recorded:
            mean = 0.9 * mean + 0.1 * own.ravel()
    return x.__array_namespace__().concat(parts), mean


def student(params, mean, image, *, train, groups=None, stride=2):
    x, mean = centred(image[:, ::stride, ::stride], mean, train, groups)
    features = x @ params["encoder"]
    decoder = params["decoder"]
    prediction = SimpleNamespace(
        logits=features @ decoder["logits"] + decoder["bias"].reshape(1, 1, 1, -1),
        embeddings=features @ decoder["embeddings"],
    )
    return (features, prediction), mean


def aux_decoder(params, mean, features, *, train, groups=None):
    x, mean = centred(features, mean, train, groups)
    logits = x @ params["logits"] + params["bias"].reshape(1, 1, 1, -1)
    return SimpleNamespace(logits=logits, embeddings=None), mean


def eln(params, mean, image, logits, *, train, groups=None):
    stride = (image.shape[1] - 1) // (logits.shape[1] - 1)
    xp = logits.__array_namespace__()
    image = xp.concat([image[:, ::stride, ::stride]] * (len(logits) // len(image)))
    x = xp.concat([image, logits], axis=-1)
    x, mean = centred(x, mean, train, groups)
    return x @ params["head"], mean


def eln_with_a_norm_after_its_weights(params, mean, image, logits, *, train, groups=None):
    head = params["head"].reshape(1, 1, 1, -1)
    image, logits = image * head[..., :3], logits * head[..., 3:]
    ones = {"head": jnp.ones(3 + CLASSES)}
    return eln(ones, mean, image, logits, train=train, groups=groups)


class Recorder:
    """A stand-in behind the call signature of a Linen module; `calls` remembers its inputs."""

    def __init__(self, function):
        self.function, self.calls = function, []

    def apply(
        self,
        variables,
        *inputs,
        train=False,
        dropout=False,
        groups=None,
        method=None,
        mutable,
        rngs=None,
    ):
        assert mutable == ["batch_stats"]
        assert dropout == (rngs is not None)
        mode = {"train": train, "dropout": dropout, "groups": groups}
        self.calls.append(SimpleNamespace(variables=variables, inputs=inputs, rngs=rngs, mode=mode))
        params, mean = variables["params"], variables["batch_stats"]["mean"]
        output, mean = self.function(params, mean, *inputs, train=train, groups=groups)
        if isinstance(output, tuple) and method not in ("features_and_prediction", "judge"):
            output = output[1]
        return output, {"batch_stats": {"mean": mean}}


def enlarge(x, size):
    """Bilinear with aligned corners: every output pixel is a mean of its neighbours."""
    rows, columns = (
        np.maximum(0, 1 - np.abs(np.linspace(0, old - 1, new)[:, None] - np.arange(old)))
        for old, new in zip(x.shape[1:3], size, strict=True)
    )
    return x.__array_namespace__().einsum("ih,jw,bhwc->bijc", rows, columns, x)


@pytest.fixture(autouse=True)
def strong_view_without_chance(monkeypatch):
    monkeypatch.setattr(views, "strong_view", lambda _key, image, _settings: strong_view(image))


def strong_view(image):
    return image[..., ::-1]


# A case: random weights and images, and the default settings with a test's changes.


def make_state():
    rng = np.random.default_rng(27)  # the gate keeps some pixels of every class, and not all

    def draw(*shape):
        return jnp.array(rng.normal(size=shape), jnp.float32)

    def head():
        return {"logits": draw(4, CLASSES), "bias": draw(CLASSES)}

    def student_params():
        return {"encoder": draw(3, 4), "decoder": head() | {"embeddings": draw(4, 3)}}

    def stats(channels):
        return {"mean": draw(channels)}

    return state.TrainState(
        step=jnp.int32(7),
        params={
            "student": student_params(),
            "aux_decoders": {"0": head(), "1": head()},
            "eln": {"head": draw(3 + CLASSES)},
        },
        batch_stats={
            "student": stats(3),
            "aux_decoders": {"0": stats(4), "1": stats(4)},
            "eln": stats(3 + CLASSES),
        },
        teacher={"params": student_params(), "batch_stats": stats(3)},
        opt_state={},
    )


def make_batch():
    rng = np.random.default_rng(1)
    label = rng.integers(0, CLASSES, (LABELED, SIZE, SIZE), np.uint8)
    label[0, :2], label[1, 3, 1:4] = VOID, VOID
    inside = np.ones((UNLABELED, SIZE, SIZE), bool)
    inside[0, :, 3:], inside[2, :2] = False, False

    def image(count):
        return rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)

    return {
        "labeled": {"image": image(LABELED), "label": label},
        "unlabeled": {"image": image(UNLABELED), "inside": inside},
    }


class Case:
    """A step's surroundings: `case.run(step)` gives the new state and the figures."""

    def __init__(self, *, tx=None, learning_rate=1.0, stride=2, cutmix=0.0, only=None, **changes):
        if only is not None:
            changes = {f"{name}_weight": float(name == only) for name in WEIGHTS} | changes
        config = default_config()
        fields = {
            "num_classes": CLASSES,
            "ignore_label": VOID,
            "input_mean": MEAN,
            "input_std": STD,
            "eln_input_mean": ELN_MEAN,
            "eln_input_std": ELN_STD,
            "class_weights": None,
            "contrastive_weight": 0.0,  # it takes most of a step's time: on where a test needs it
            "contrastive_windows": 1,
            "loss_ceilings": (0.0, 0.0),
        }
        handled = ("class_balance", "gate_fit_every", "student_reset_every", "train_norm")
        method = {k: v for k, v in config.method.items() if k not in handled}
        self.student = partial(student, stride=stride)
        self.networks = SimpleNamespace(
            student=Recorder(self.student), aux_decoder=Recorder(aux_decoder), eln=Recorder(eln)
        )
        tx = tx or optax.sgd(1.0)
        side = 1 + 2 * stride  # maps are 3x3 whatever the stride
        self.batch = jax.tree.map(lambda x: x[:, :side, :side], make_batch())
        self.old = make_state()
        self.old = self.old.replace(opt_state={k: tx.init(v) for k, v in self.old.params.items()})
        self.settings = steps.MethodSettings(**(method | fields | changes))
        self.args = steps.StepArguments(
            self.networks,
            enlarge,
            dict.fromkeys(self.old.params, tx),
            learning_rate if callable(learning_rate) else lambda _: learning_rate,
            self.settings,
            views.ViewSettings(**(dict(config.views.items()) | {"cutmix_probability": cutmix})),
        )

    def run(self, step, key=0):
        batch = jax.tree.map(jnp.asarray, self.batch)
        return step(self.old, batch, jax.random.key(key), args=self.args)


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def assert_same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_close(actual, expected, rtol=1e-4, atol=1e-5):
    def check(a, e):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=atol)

    jax.tree.map(check, actual, expected)


def is_same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def moved(old, new):
    """Names of the networks whose parameters changed."""
    return {name for name in old.params if not is_same(old.params[name], new.params[name])}


# The method in NumPy.


def normalized(image, mean=MEAN, std=STD):
    return (image / 255.0 - np.array(mean)) / np.array(std)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def cross_entropy(logits, label, mask, weights=(1.0,) * CLASSES):
    """(Weighted) mean over the pixels of the mask."""
    log_probability, label = log_softmax(logits)[mask], label[mask]
    weights = np.array(weights)[label]
    return -(log_probability[np.arange(len(label)), label] * weights).sum() / weights.sum()


def supervised(logits, label):
    return cross_entropy(enlarge(logits, label.shape[1:]), label, label != VOID)


def balanced_bce(eln_logits, logits, label, void_is_error=False, bound=100.0):
    """ELN's loss on one prediction: an error weighs N_correct / N_error, up to the bound."""
    eln_logits = enlarge(eln_logits[..., None], label.shape[1:])[..., 0]
    right = enlarge(logits, label.shape[1:]).argmax(-1) == label
    counted = np.ones_like(right) if void_is_error else label != VOID
    wrong = ~right & counted
    weight = right.sum() / wrong.sum()
    weight = min(weight, bound) if bound else weight
    values = np.log1p(np.exp(-eln_logits))[right].sum()
    values += weight * np.log1p(np.exp(eln_logits))[wrong].sum()
    return values / counted.sum()


def info_nce(anchors, keys, label, mask, temperature=0.5):
    """Pixel contrast over one window: mean over anchors of a class, then over classes."""
    anchors, keys = (
        x[mask] / np.linalg.norm(x[mask], axis=-1, keepdims=True) for x in (anchors, keys)
    )
    similarity = np.exp(anchors @ keys.T / temperature)
    positive = similarity * (label[mask][:, None] == label[mask])
    values = np.log(similarity.sum(1)) - np.log(positive.sum(1))
    return np.mean([values[label[mask] == c].mean() for c in np.unique(label[mask])])


def labeled_logits(case, params=None):
    """Logits of both auxiliary decoders and the main one on the labelled images."""
    old = float64(case.old)
    params = params or old.params
    image = normalized(case.batch["labeled"]["image"])
    mean = old.batch_stats["student"]["mean"]
    (features, main), _ = case.student(params["student"], mean, image, train=True)
    aux = [
        aux_decoder(p, np.zeros(4), features, train=True)[0].logits
        for p in params["aux_decoders"].values()
    ]
    return [*aux, main.logits]


def labeled_eln(case, predictions, head=None):
    """ELN's logits on each of the predictions, and its running mean after the recorded ones."""
    old = float64(case.old)
    head = old.params["eln"]["head"] if head is None else head
    image = normalized(case.batch["labeled"]["image"], ELN_MEAN, ELN_STD)
    mean, outputs = old.batch_stats["eln"]["mean"], []
    for i, logits in enumerate(predictions):
        output, moved = eln({"head": head}, mean, image, logits, train=True)
        outputs.append(output)
        if case.settings.record_all_batch_stats or i == len(predictions) - 1:  # the main decoder's
            mean = moved
    return outputs, mean


def teacher_view(case):
    """The teacher's prediction, its labels, and the mask of those kept, by the ELN or all."""
    old = float64(case.old)
    image, inside = (case.batch["unlabeled"][k] for k in ("image", "inside"))
    teacher = old.teacher
    (_, prediction), _ = case.student(
        teacher["params"], teacher["batch_stats"]["mean"], normalized(image), train=False
    )
    stride = (image.shape[1] - 1) // (prediction.logits.shape[1] - 1)
    mask = inside[:, ::stride, ::stride]
    if case.settings.gate == "eln":
        _, mean = labeled_eln(case, labeled_logits(case))
        judged, _ = eln(
            old.params["eln"],
            mean,
            normalized(image, ELN_MEAN, ELN_STD),
            prediction.logits,
            train=False,
        )
        mask = mask & (1 / (1 + np.exp(-judged)) > case.settings.threshold)
    return prediction, prediction.logits.argmax(-1), mask


def unlabeled_terms(case, params=None, strong=None, mix=lambda x: x):
    """Pseudo-label and contrastive losses of weak and strong view, by the student's parameters."""
    params = params or float64(case.old.params["student"])
    image = case.batch["unlabeled"]["image"]
    strong = strong_view(image) if strong is None else strong
    teacher, label, mask = teacher_view(case)
    terms = {}
    for name, seen, change in (("weak", image, lambda x: x), ("strong", strong, mix)):
        (_, prediction), _ = case.student(params, np.zeros(3), normalized(seen), train=True)
        target, kept = change(label), change(mask)
        terms[f"pseudo_label_loss/{name}"] = cross_entropy(prediction.logits, target, kept)
        terms[f"contrastive_loss/{name}"] = info_nce(
            prediction.embeddings, change(teacher.embeddings), target, kept
        )
    return terms


def gradient(loss, tree, width=1e-5):
    """Central differences of a float64 loss by every parameter of a tree."""
    leaves, form = jax.tree.flatten(tree)
    result = [np.zeros_like(leaf) for leaf in leaves]
    for i, leaf in enumerate(leaves):
        for index in np.ndindex(leaf.shape):
            for sign in (1, -1):
                shifted = leaf.copy()
                shifted[index] += sign * width
                changed = jax.tree.unflatten(form, [*leaves[:i], shifted, *leaves[i + 1 :]])
                result[i][index] += sign * loss(changed) / (2 * width)
    return jax.tree.unflatten(form, result)


def step_taken(old, new):
    """Old minus new: the gradient, for SGD with learning rate 1."""
    return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), old, new)


# What all phases share.


@pytest.mark.parametrize(
    "step", [steps.supervised_step, steps.eln_step, steps.semi_supervised_step]
)
def test_gradients_of_a_batch_in_parts_are_the_mean_of_the_parts_gradients(step):
    case = Case()
    case.batch["unlabeled"] = {k: v[:2] for k, v in case.batch["unlabeled"].items()}
    case.args = dataclasses.replace(case.args, accumulation=2)
    new, metrics = case.run(step)
    # Twice the plain step, each on half of the batch, from the same parameters; the running
    # statistics of the first half are where the second begins.
    found, stats = [], case.old.batch_stats
    for i in range(2):
        half = Case()
        half.batch = jax.tree.map(lambda x, i=i: x[i : i + 1], case.batch)
        half.old = half.old.replace(batch_stats=stats)
        found.append(half.run(step))
        stats = found[-1][0].batch_stats
    (first, first_metrics), (second, second_metrics) = found
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    assert not is_same(first.params["student"], second.params["student"])
    assert_close(new.params, mean.params)
    assert_close(new.batch_stats, second.batch_stats)
    assert_close(new.teacher["params"], mean.teacher["params"])
    assert_close(new.teacher["batch_stats"], second.teacher["batch_stats"])
    assert new.step == case.old.step + 1
    of_means = {k for k in metrics if "norm" not in k and k != "bad_step"}
    for name in of_means:
        expected = (first_metrics[name] + second_metrics[name]) / 2
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


# Phase 1.


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 3.0)])
def test_supervised_loss_is_the_mean_over_all_pixels_but_void(weights):
    case = Case(class_weights=weights)
    _, metrics = case.run(steps.supervised_step)
    label = case.batch["labeled"]["label"]
    logits = enlarge(labeled_logits(case)[-1], (SIZE, SIZE))
    expected = cross_entropy(logits, label, label != VOID, weights or (1.0,) * CLASSES)
    np.testing.assert_allclose(metrics["supervised_loss"], expected, rtol=1e-5)


def test_labels_that_are_all_void_move_nothing():
    case = Case(class_weights=(0.5, 1.0, 3.0))
    case.batch["labeled"]["label"][:] = VOID
    new, metrics = case.run(steps.eln_step)
    assert metrics["loss"] == 0
    assert_same(new.params, case.old.params)


def test_supervised_step_moves_the_student_alone():
    case = Case(tx=optax.adam(0.1))
    new, _ = case.run(steps.supervised_step)
    for tree in ("params", "batch_stats", "opt_state"):
        before, after = getattr(case.old, tree), getattr(new, tree)
        assert before.keys() == after.keys()
        assert not is_same(before["student"], after["student"])
        for network in ("aux_decoders", "eln"):
            assert_same(after[network], before[network])
    assert_same(new.teacher, case.old.teacher)
    assert new.step == case.old.step + 1


def test_the_student_descends_the_supervised_gradient_by_the_learning_rate_of_the_step():
    case = Case(supervised_weight=2.0, learning_rate=lambda step: 0.01 * step)
    new, metrics = case.run(steps.supervised_step)

    def loss(params):
        logits = labeled_logits(case, {"student": params, "aux_decoders": {}})[-1]
        return 2.0 * supervised(logits, case.batch["labeled"]["label"])

    expected = gradient(loss, float64(case.old.params["student"]))
    actual = step_taken(case.old.params["student"], new.params["student"])
    assert_close(actual, jax.tree.map(lambda g: 0.07 * g, expected))
    np.testing.assert_allclose(metrics["learning_rate"], 0.07, rtol=1e-6)
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(expected)))
    np.testing.assert_allclose(metrics["grad_norm/student"], norm, rtol=1e-4)


# Phase 2.


@pytest.mark.parametrize("void_is_error", [False, True])
@pytest.mark.parametrize("bound", [0.0, 0.3])
def test_eln_loss_of_every_prediction(void_is_error, bound):
    case = Case(void_is_error=void_is_error, max_error_weight=bound)
    _, metrics = case.run(steps.eln_step)
    predictions, label = labeled_logits(case), case.batch["labeled"]["label"]
    judged, _ = labeled_eln(case, predictions)
    for name, eln_logits, logits in zip(("0", "1", "main"), judged, predictions, strict=True):
        expected = balanced_bce(eln_logits, logits, label, void_is_error, bound)
        np.testing.assert_allclose(metrics[f"eln_loss/{name}"], expected, rtol=1e-5)


def test_what_lies_under_void_labels_does_not_reach_the_eln():
    # Pixels of a void row trade their red, so that batch statistics stay.
    case, other = Case(only="eln"), Case(only="eln")
    for changed in (case, other):
        changed.batch["labeled"]["label"][:, :2] = VOID
    image = other.batch["labeled"]["image"]
    image[:, 0, :, 0] = image[:, 0, ::-1, 0]
    (new, metrics), (other_new, other_metrics) = (c.run(steps.eln_step) for c in (case, other))
    assert not np.array_equal(case.batch["labeled"]["image"], image)
    np.testing.assert_allclose(metrics["eln_loss"], other_metrics["eln_loss"], rtol=1e-5)
    assert_close(new.params["eln"], other_new.params["eln"])


@pytest.mark.parametrize("void_is_error", [False, True])
def test_error_share_is_of_the_pixels_with_a_label(void_is_error):
    case = Case(void_is_error=void_is_error)
    _, metrics = case.run(steps.eln_step)
    label = case.batch["labeled"]["label"]
    for name, logits in zip(("0", "1", "main"), labeled_logits(case), strict=True):
        wrong = enlarge(logits, (SIZE, SIZE)).argmax(-1) != label
        expected = wrong[label != VOID].mean()
        np.testing.assert_allclose(metrics[f"error_share/{name}"], expected, rtol=1e-6)


@pytest.mark.parametrize("learner", [0, 1])
def test_an_auxiliary_decoder_learns_only_above_its_ceiling(learner):
    label = make_batch()["labeled"]["label"]
    *aux, main = (supervised(logits, label) for logits in labeled_logits(Case()))
    # A loss just above its ceiling times the main one, and one just below.
    ceilings = [x / main * (0.99 if i == learner else 1.01) for i, x in enumerate(aux)]
    case = Case(only="aux", aux_weight=2.0, loss_ceilings=tuple(ceilings))
    new, metrics = case.run(steps.eln_step)
    np.testing.assert_allclose([metrics[f"aux_loss/{i}"] for i in (0, 1)], aux, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 2.0 * aux[learner], rtol=1e-5)
    for i, name in enumerate("01"):
        before, after = (s.params["aux_decoders"][name] for s in (case.old, new))
        assert metrics[f"aux_learns/{name}"] == float(i == learner)
        assert is_same(before, after) == (i != learner)


def test_auxiliary_decoders_descend_the_gradient_of_their_own_losses():
    case = Case(aux_weight=0.5)
    new, _ = case.run(steps.eln_step)

    def loss(params):
        student_params = float64(case.old.params["student"])
        logits = labeled_logits(case, {"student": student_params, "aux_decoders": params})
        return 0.5 * sum(supervised(x, case.batch["labeled"]["label"]) for x in logits[:2])

    expected = gradient(loss, float64(case.old.params["aux_decoders"]))
    assert_close(step_taken(case.old.params["aux_decoders"], new.params["aux_decoders"]), expected)


def test_the_eln_descends_the_gradient_of_the_sum_over_predictions():
    case = Case(eln_weight=0.5)
    new, _ = case.run(steps.eln_step)
    predictions = labeled_logits(case)

    def loss(params):
        judged, _ = labeled_eln(case, predictions, params["head"])
        pairs = zip(judged, predictions, strict=True)
        return 0.5 * sum(balanced_bce(e, x, case.batch["labeled"]["label"]) for e, x in pairs)

    expected = gradient(loss, float64(case.old.params["eln"]))
    assert_close(step_taken(case.old.params["eln"], new.params["eln"]), expected)


def test_an_eln_with_an_opinion_learns_to_segment_by_the_students_loss():
    weights = (0.5, 1.0, 2.0)
    case = Case(only="eln", eln_weight=0.5, eln_second_opinion=True, class_weights=weights)
    drawn = jnp.asarray(np.random.default_rng(3).normal(size=(3, CLASSES)), jnp.float32)
    head = case.old.params["eln"]["head"]
    case.old.params["eln"] = {"head": head, "classes": drawn}
    case.old.opt_state["eln"] = optax.sgd(1.0).init(case.old.params["eln"])

    def opinionated(params, mean, image, logits, **mode):
        right, mean = eln(params, mean, image, logits, **mode)
        return (right, image[:, ::2, ::2] @ params["classes"]), mean

    case.networks.eln.function = opinionated
    new, metrics = case.run(steps.eln_step)
    label = case.batch["labeled"]["label"]
    image = normalized(case.batch["labeled"]["image"], ELN_MEAN, ELN_STD)[:, ::2, ::2]

    def loss(classes):
        larger = enlarge(image @ classes, label.shape[1:])
        return cross_entropy(larger, label, label != VOID, weights)

    np.testing.assert_allclose(metrics["opinion_loss"], loss(float64(drawn)), rtol=1e-5)
    taken = step_taken(case.old.params["eln"], new.params["eln"])
    assert_close(taken["classes"], gradient(lambda c: 0.5 * loss(c), float64(drawn)))
    # What it says of predictions is learnt as by any other.
    plain_case = Case(only="eln", eln_weight=0.5, class_weights=weights)
    plain, plain_metrics = plain_case.run(steps.eln_step)
    assert_close(
        taken["head"], step_taken(plain_case.old.params["eln"], plain.params["eln"])["head"]
    )
    total = plain_metrics["loss"] + 0.5 * metrics["opinion_loss"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)


def test_simulated_errors_are_one_more_prediction_in_the_elns_loss():
    label = make_batch()["labeled"]["label"]
    with_errors = label[:, ::2, ::2].copy()
    with_errors[:, 2] = (with_errors[:, 2] + 1) % CLASSES
    case = Case(only="eln", eln_weight=2.0, simulated_weight=0.25)
    case.batch["labeled"]["simulated"] = with_errors
    new, metrics = case.run(steps.eln_step)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), case.old.step), 4)
    logits = float64(simulated.soft_logits(key, jnp.array(with_errors), CLASSES, (3, 3)))
    (judged, *_), _ = labeled_eln(case, [logits, *labeled_logits(case)])
    expected = balanced_bce(judged, logits, label)
    np.testing.assert_allclose(metrics["simulated_eln_loss"], expected, rtol=1e-5)
    wrong = (enlarge(logits, (SIZE, SIZE)).argmax(-1) != label)[label != VOID].mean()
    np.testing.assert_allclose(metrics["error_share/simulated"], wrong, rtol=1e-6)
    assert wrong > 0.1
    # The other predictions count as ever, and the ELN alone learns from these.
    plain, plain_metrics = Case(only="eln", eln_weight=2.0).run(steps.eln_step)
    np.testing.assert_allclose(metrics["eln_loss"], plain_metrics["eln_loss"], rtol=1e-5)
    total = plain_metrics["loss"] + 2.0 * 0.25 * expected
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
    assert moved(plain, new) == {"eln"}
    assert not any("simulated" in name for name in plain_metrics)


def test_other_simulated_errors_make_another_loss():
    label = make_batch()["labeled"]["label"]
    found = []
    for shift in (0, 1):
        case = Case(only="eln", simulated_weight=1.0)
        errors = np.where(label == VOID, VOID, (label + shift) % CLASSES)
        case.batch["labeled"]["simulated"] = errors.astype(np.uint8)
        _, metrics = case.run(steps.semi_supervised_step)
        found.append(metrics)
    losses, shares = (
        [float(one[name]) for one in found]
        for name in ("simulated_eln_loss", "error_share/simulated")
    )
    assert np.isfinite(losses).all()
    assert abs(losses[0] - losses[1]) > 0.01
    assert shares[0] < 0.6 < shares[1]


def test_eln_step_moves_everything_but_the_teacher():
    case = Case()
    new, _ = case.run(steps.eln_step)
    assert_same(new.teacher, case.old.teacher)
    assert moved(case.old, new) == {"student", "aux_decoders", "eln"}


# Phase 3.


@pytest.mark.parametrize(
    ("weight", "learner"),
    [
        ("supervised", "student"),
        ("aux", "aux_decoders"),
        ("eln", "eln"),
        ("pseudo_label", "student"),
        ("contrastive", "student"),
    ],
)
def test_every_term_alone_moves_one_network(weight, learner):
    case = Case(only=weight)
    new, _ = case.run(steps.semi_supervised_step)
    assert moved(case.old, new) == {learner}


def test_soft_weights_teach_the_eln_nothing_through_its_statistics_either():
    case = Case(only="pseudo_label", gate="eln", gate_mode="soft")
    case.networks.eln.function = eln_with_a_norm_after_its_weights
    new, _ = case.run(steps.semi_supervised_step)
    assert moved(case.old, new) == {"student"}


def test_the_student_descends_the_gradient_of_its_three_terms():
    case = Case(supervised_weight=0.5, pseudo_label_weight=2.0, contrastive_weight=3.0)
    new, _ = case.run(steps.semi_supervised_step)
    weights = {"pseudo_label_loss": 2.0, "contrastive_loss": 3.0}

    def loss(params):
        logits = labeled_logits(case, {"student": params, "aux_decoders": {}})[-1]
        total = 0.5 * supervised(logits, case.batch["labeled"]["label"])
        for name, value in unlabeled_terms(case, params).items():
            total += weights[name.split("/")[0]] * value
        return total

    expected = gradient(loss, float64(case.old.params["student"]))
    actual = step_taken(case.old.params["student"], new.params["student"])
    assert_close(actual, expected, rtol=1e-3)


@pytest.mark.parametrize(("gate", "threshold"), [("none", 0.5), ("eln", 0.5), ("eln", 0.8)])
def test_unlabeled_losses_count_the_pixels_that_are_inside_and_pass_the_gate(gate, threshold):
    case = Case(gate=gate, gate_threshold=threshold, contrastive_weight=1.0)
    _, metrics = case.run(steps.semi_supervised_step)
    for name, expected in unlabeled_terms(case).items():
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-4)
    _, label, mask = teacher_view(case)
    inside = case.batch["unlabeled"]["inside"][:, ::2, ::2]
    assert set(label[mask]) == set(range(CLASSES))
    assert (mask.sum() < inside.sum()) == (gate == "eln")
    np.testing.assert_allclose(metrics["valid_ratio"], mask.sum() / inside.sum(), rtol=1e-6)


def test_pixels_outside_change_nothing():
    # Pixels of the padded columns trade their red, so that batch statistics stay.
    case, other = (Case(gate="none", contrastive_weight=1.0) for _ in range(2))
    for changed in (case, other):
        changed.batch["unlabeled"]["inside"][:, :, 3:] = False
    image = other.batch["unlabeled"]["image"]
    image[:, ::2, 3:, 0] = np.roll(image[:, ::2, 3:, 0], 1, axis=1)
    assert not np.array_equal(teacher_view(case)[1], teacher_view(other)[1])
    (new, metrics), (other_new, other_metrics) = (
        c.run(steps.semi_supervised_step) for c in (case, other)
    )
    assert_close(metrics, other_metrics)
    assert_close(new, other_new)


def test_no_pixel_inside_gives_zero():
    case = Case(contrastive_weight=1.0)
    case.batch["unlabeled"]["inside"][:] = False
    new, metrics = case.run(steps.semi_supervised_step)
    for name in ("pseudo_label_loss", "contrastive_loss", "valid_ratio"):
        assert metrics[name] == 0
    without, _ = Case().run(steps.eln_step)
    assert_close(new.params, without.params)


def test_soft_weights_enter_the_pseudo_label_loss_as_weights():
    case = Case(gate="eln", gate_mode="soft")
    _, metrics = case.run(steps.semi_supervised_step)
    prediction, label, _ = teacher_view(case)
    old = float64(case.old)
    _, mean = labeled_eln(case, labeled_logits(case))
    image, inside = (case.batch["unlabeled"][k] for k in ("image", "inside"))
    judged, _ = eln(
        old.params["eln"], mean, normalized(image, ELN_MEAN, ELN_STD), prediction.logits,
        train=False,
    )  # fmt: skip
    weight = inside[:, ::2, ::2] / (1 + np.exp(-judged))
    (_, own), _ = case.student(old.params["student"], np.zeros(3), normalized(image), train=True)
    values = -np.take_along_axis(log_softmax(own.logits), label[..., None], -1)[..., 0]
    expected = (values * weight).sum() / weight.sum()
    np.testing.assert_allclose(metrics["pseudo_label_loss/weak"], expected, rtol=1e-4)
    mean_weight = weight.sum() / inside[:, ::2, ::2].sum()
    np.testing.assert_allclose(metrics["valid_ratio"], mean_weight, rtol=1e-5)


def test_the_oracle_keeps_what_is_right_and_not_void():
    case = Case(gate="oracle")
    _, label, _ = teacher_view(Case(gate="none"))
    truth = np.full((UNLABELED, SIZE, SIZE), VOID, np.uint8)
    truth[:2, ::2, ::2] = label[:2]  # all of the third image is void
    truth[0, 0] = (truth[0, 0] + 1) % CLASSES
    case.batch["unlabeled"] = {"image": case.batch["unlabeled"]["image"], "label": truth}
    _, metrics = case.run(steps.semi_supervised_step)
    np.testing.assert_allclose(metrics["valid_ratio"], 15 / 18, rtol=1e-6)
    image = case.batch["unlabeled"]["image"]
    params = float64(case.old.params["student"])
    (_, own), _ = case.student(params, np.zeros(3), normalized(image), train=True)
    expected = cross_entropy(own.logits, label, truth[:, ::2, ::2] == label)
    np.testing.assert_allclose(metrics["pseudo_label_loss/weak"], expected, rtol=1e-4)


def test_a_second_strong_view_shares_the_loss_with_the_first(monkeypatch):
    shifted = iter([lambda x: x[..., ::-1], lambda x: 1 - x])
    monkeypatch.setattr(views, "strong_view", lambda _key, image, _settings: next(shifted)(image))
    case = Case(gate="none", second_strong_view=True, contrastive_weight=1.0)
    _, metrics = case.run(steps.semi_supervised_step)
    image = case.batch["unlabeled"]["image"]
    each = [unlabeled_terms(case, strong=view) for view in (strong_view(image), 255 - image)]
    expected = np.mean([terms["pseudo_label_loss/strong"] for terms in each])
    np.testing.assert_allclose(metrics["pseudo_label_loss/strong"], expected, rtol=1e-4)
    weak = each[0]["pseudo_label_loss/weak"]
    np.testing.assert_allclose(metrics["pseudo_label_loss/weak"], weak, rtol=1e-4)
    contrast = each[0]["contrastive_loss/strong"]  # of the first view alone
    np.testing.assert_allclose(metrics["contrastive_loss/strong"], contrast, rtol=1e-4)
    groups = case.networks.student.calls[1].mode["groups"]
    assert groups == (LABELED, UNLABELED, (UNLABELED, False), (UNLABELED, False))


def test_both_strong_views_have_a_draw_and_boxes_of_their_own(monkeypatch):
    keys, boxes, draw = [], [], views.cutmix_boxes

    def strong(key, image, _settings):
        keys.append(jax.random.key_data(key).tolist())
        return image

    def cutmix_boxes(*arguments):
        boxes.append(draw(*arguments))
        return boxes[-1]

    monkeypatch.setattr(views, "strong_view", strong)
    monkeypatch.setattr(views, "cutmix_boxes", cutmix_boxes)
    Case(cutmix=1.0, second_strong_view=True).run(steps.semi_supervised_step)
    assert keys[0] != keys[1]
    assert not np.array_equal(*boxes)


def decode(params, features):
    decoder = params["decoder"]
    return features @ decoder["logits"] + decoder["bias"].reshape(1, 1, 1, -1)


def test_feature_dropout_adds_a_pass_on_the_weak_views_features(monkeypatch):
    # Every other channel is dropped, by a stand-in for the draw.
    kept = np.array([2.0, 0.0, 2.0, 0.0], np.float32).reshape(1, 1, 1, -1)
    monkeypatch.setattr(views, "drop_channels", lambda _key, x, _rate: x * kept)
    case = Case(gate="none", feature_dropout=0.5)
    whole = case.networks.student.apply

    def apply(variables, *inputs, method=None, **rest):
        if method != "decode":
            return whole(variables, *inputs, method=method, **rest)
        assert rest["train"]
        assert rest["dropout"]
        output = SimpleNamespace(logits=decode(variables["params"], *inputs))
        return output, {"batch_stats": {"mean": jnp.full(3, jnp.nan)}}

    case.networks.student.apply = apply
    new, metrics = case.run(steps.semi_supervised_step)
    _, label, mask = teacher_view(case)
    image = case.batch["unlabeled"]["image"]

    def term(params):
        (features, _), _ = case.student(params, np.zeros(3), normalized(image), train=True)
        return cross_entropy(decode(params, features * kept), label, mask)

    params = float64(case.old.params["student"])
    np.testing.assert_allclose(metrics["pseudo_label_loss/features"], term(params), rtol=1e-4)
    parts = [metrics[f"pseudo_label_loss/{name}"] for name in ("weak", "strong", "features")]
    np.testing.assert_allclose(metrics["pseudo_label_loss"], sum(parts), rtol=1e-6)
    # The gradient reaches the encoder, and the pass moves no running statistics.
    without, _ = Case(gate="none").run(steps.semi_supervised_step)
    actual = step_taken(without.params["student"], new.params["student"])
    assert_close(actual, gradient(term, params), rtol=1e-3, atol=1e-4)
    assert_same(new.batch_stats, without.batch_stats)


@pytest.mark.parametrize("gate", ["none", "eln"])
def test_a_resting_eln_is_asked_but_does_not_learn(gate):
    case, other = (
        Case(gate=gate, eln_in_semi_supervised=learns, record_all_batch_stats=False)
        for learns in (False, True)
    )
    new, metrics = case.run(steps.semi_supervised_step)
    learned, whole = other.run(steps.semi_supervised_step)
    assert moved(case.old, new) == {"student"}
    for tree in ("params", "batch_stats", "opt_state"):
        for name in ("aux_decoders", "eln"):
            assert_same(getattr(new, tree)[name], getattr(case.old, tree)[name])
    assert not [name for name in metrics if name.startswith(("aux", "eln"))]
    if gate == "none":  # the student and the teacher do not notice
        assert_close(new.params["student"], learned.params["student"])
        assert_close(new.teacher, learned.teacher)
        for name in ("supervised_loss", "pseudo_label_loss", "valid_ratio"):
            np.testing.assert_allclose(metrics[name], whole[name], rtol=1e-6)


def test_cutmix_mixes_image_label_mask_and_keys_by_the_same_boxes():
    case = Case(stride=1, cutmix=1.0, contrastive_weight=1.0)
    _, metrics = case.run(steps.semi_supervised_step, key=5)
    own = strong_view(case.batch["unlabeled"]["image"])
    previous = np.roll(own, 1, axis=0)
    # What the student saw tells where the boxes lie.
    strong = np.asarray(case.networks.student.calls[1].inputs[0][-UNLABELED:])
    pasted = (np.abs(strong - normalized(own)) > 1e-3).any(-1)
    np.testing.assert_allclose(strong[pasted], normalized(previous)[pasted], atol=1e-5)
    assert pasted.any()
    assert not pasted.all((1, 2)).any()

    def mix(x):
        where = pasted.reshape(pasted.shape + (1,) * (x.ndim - 3))
        return np.where(where, np.roll(x, 1, axis=0), x)

    expected = unlabeled_terms(case, strong=mix(own), mix=mix)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4)
    # Each part matters: the mixed label, mask and keys differ from those that are not.
    teacher, label, mask = teacher_view(case)
    for x in (teacher.embeddings, label, mask):
        assert not np.array_equal(mix(x), x)


def test_cutmix_boxes_are_those_of_views_on_maps_of_another_resolution():
    case = Case(cutmix=1.0, contrastive_weight=1.0)
    _, metrics = case.run(steps.semi_supervised_step, key=5)
    # The second of four keys drawn for the views, as the step derives them.
    box_key = jax.random.split(
        jax.random.fold_in(jax.random.fold_in(jax.random.key(5), case.old.step), 1), 4
    )[1]
    boxes = views.cutmix_boxes(box_key, UNLABELED, 1.0)

    def mix(x):
        return np.asarray(views.paste_boxes(jnp.asarray(x), boxes))

    strong = mix(strong_view(case.batch["unlabeled"]["image"]))
    for name, value in unlabeled_terms(case, strong=strong, mix=mix).items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4)


def test_teacher_follows_the_new_student():
    case = Case(ema_decay=0.9)
    new, _ = case.run(steps.semi_supervised_step)
    expected = jax.tree.map(
        lambda t, s: 0.9 * t + 0.1 * s,
        float64(case.old.teacher["params"]),
        float64(new.params["student"]),
    )
    assert_close(new.teacher["params"], expected, rtol=1e-6, atol=1e-6)
    assert "student" in moved(case.old, new)


@pytest.mark.parametrize(
    ("average", "batch_stats"), [(True, False), (True, True), (False, False), (False, True)]
)
def test_teacher_statistics_are_averaged_or_its_own(average, batch_stats):
    case = Case(ema_decay=0.9, average_batch_stats=average, pseudo_label_batch_stats=batch_stats)
    new, _ = case.run(steps.semi_supervised_step)
    old = float64(case.old.teacher["batch_stats"]["mean"])
    image = normalized(case.batch["unlabeled"]["image"])
    if average:
        expected = 0.9 * old + 0.1 * float64(new.batch_stats["student"]["mean"])
    elif batch_stats:
        expected = 0.9 * old + 0.1 * image[:, ::2, ::2].mean((0, 1, 2))
    else:
        expected = old
    assert_close(new.teacher["batch_stats"]["mean"], expected)


@pytest.mark.parametrize("record_all", [False, True])
def test_student_statistics_move_by_labeled_then_weak_and_maybe_strong(record_all):
    case = Case(record_all_batch_stats=record_all)
    new, _ = case.run(steps.semi_supervised_step)
    unlabeled = case.batch["unlabeled"]["image"]
    mean = float64(case.old.batch_stats["student"]["mean"])
    strong = [strong_view(unlabeled)] if record_all else []
    for image in (case.batch["labeled"]["image"], unlabeled, *strong):
        mean = 0.9 * mean + 0.1 * normalized(image)[:, ::2, ::2].mean((0, 1, 2))
    assert_close(new.batch_stats["student"]["mean"], mean)


@pytest.mark.parametrize("record_all", [False, True])
@pytest.mark.parametrize("batch_stats", [False, True])
def test_eln_statistics_move_by_the_labeled_predictions(batch_stats, record_all):
    case = Case(
        pseudo_label_batch_stats=batch_stats,
        average_batch_stats=not batch_stats,
        record_all_batch_stats=record_all,
    )
    new, _ = case.run(steps.semi_supervised_step)
    _, mean = labeled_eln(case, labeled_logits(case))
    if batch_stats:  # and then by the pass over the teacher's prediction
        unlabeled, teacher = case.batch["unlabeled"]["image"], float64(case.old.teacher)
        (_, prediction), _ = student(
            teacher["params"], np.zeros(3), normalized(unlabeled), train=True
        )
        image = normalized(unlabeled, ELN_MEAN, ELN_STD)[:, ::2, ::2]
        seen = np.concatenate([image, prediction.logits], -1)
        mean = 0.9 * mean + 0.1 * seen.mean((0, 1, 2))
    assert_close(new.batch_stats["eln"]["mean"], mean)


def test_auxiliary_statistics_move_by_the_labeled_features():
    case = Case()
    new, _ = case.run(steps.semi_supervised_step)
    old = float64(case.old)
    (features, _), _ = student(
        old.params["student"],
        np.zeros(3),
        normalized(case.batch["labeled"]["image"]),
        train=True,
    )
    for name in "01":
        mean = old.batch_stats["aux_decoders"][name]["mean"]
        expected = 0.9 * mean + 0.1 * features.mean((0, 1, 2))
        assert_close(new.batch_stats["aux_decoders"][name]["mean"], expected)


@pytest.mark.parametrize("batch_stats", [False, True])
def test_networks_are_called_with_their_variables_inputs_and_flags(batch_stats):
    case = Case(pseudo_label_batch_stats=batch_stats)
    case.run(steps.semi_supervised_step)
    labeled, weak = (case.batch[k]["image"] for k in ("labeled", "unlabeled"))
    judging = {"train": batch_stats, "dropout": False, "groups": None}

    teacher, main = case.networks.student.calls
    assert teacher.mode == judging
    assert_same(teacher.variables, case.old.teacher)
    assert_close(teacher.inputs[0], normalized(weak))
    assert main.mode == {"train": True, "dropout": True, "groups": STUDENT_GROUPS}
    assert_close(main.inputs[0], normalized(np.concatenate([labeled, weak, strong_view(weak)])))

    for call in case.networks.aux_decoder.calls:
        assert call.mode == {"train": True, "dropout": True, "groups": None}
    assert len(case.networks.aux_decoder.calls) == 2

    learning, judgement = case.networks.eln.calls
    assert learning.mode == {"train": True, "dropout": True, "groups": ELN_GROUPS}
    assert_close(learning.inputs[0], normalized(labeled, ELN_MEAN, ELN_STD))
    assert len(learning.inputs[1]) == 3 * len(labeled)
    assert judgement.mode == judging
    assert_close(judgement.inputs[0], normalized(weak, ELN_MEAN, ELN_STD))


def test_every_call_with_dropout_has_a_key_of_its_own_in_every_step():
    case = Case()
    case.run(steps.semi_supervised_step)
    case.old = case.old.replace(step=case.old.step + 1)
    case.run(steps.semi_supervised_step)
    calls = [call for network in vars(case.networks).values() for call in network.calls]
    keys = [jax.random.key_data(c.rngs["dropout"]).tolist() for c in calls if c.mode["dropout"]]
    assert len(keys) == 8
    assert len({tuple(key) for key in keys}) == 8


@pytest.mark.parametrize("step", [steps.eln_step, steps.semi_supervised_step])
def test_loss_is_the_weighted_sum_of_the_logged_parts(step):
    rng = np.random.default_rng(5)
    weights = {name: float(rng.uniform(0.5, 2.0)) for name in WEIGHTS}
    ceilings = (0.0, 1e6)  # the second auxiliary decoder does not learn
    changes = {f"{name}_weight": value for name, value in weights.items()}
    _, metrics = Case(loss_ceilings=ceilings, **changes).run(step)
    parts = {"aux": "01", "eln": ("0", "1", "main")}
    if step is steps.semi_supervised_step:
        parts |= dict.fromkeys(("pseudo_label", "contrastive"), ("weak", "strong"))
    total = weights["supervised"] * metrics["supervised_loss"]
    for name, suffixes in parts.items():
        values = [metrics[f"{name}_loss/{suffix}"] for suffix in suffixes]
        np.testing.assert_allclose(metrics[f"{name}_loss"], sum(values), rtol=1e-6)
        total += weights[name] * (values[0] if name == "aux" else sum(values))
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize(
    "step", [steps.supervised_step, steps.eln_step, steps.semi_supervised_step]
)
@pytest.mark.parametrize("spoiled", ["student", "eln"])
def test_a_bad_step_counts_but_changes_nothing(step, spoiled, average):
    case = Case(average_batch_stats=average, pseudo_label_batch_stats=not average)
    bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), case.old.params[spoiled])
    case.old = case.old.replace(params={**case.old.params, spoiled: bad})
    case.args = dataclasses.replace(case.args, skip_bad_steps=True)
    new, metrics = case.run(step)
    is_bad = spoiled == "student" or step is not steps.supervised_step
    assert bool(metrics["bad_step"]) == is_bad
    if is_bad:
        assert_same(new, case.old.replace(step=case.old.step + 1))
    else:
        assert moved(case.old, new) >= {"student"}


def test_a_loss_above_the_limit_is_bad_and_one_below_is_not():
    case = Case()
    _, metrics = case.run(steps.supervised_step)
    for limit, expected in ((metrics["loss"] * 0.99, True), (metrics["loss"] * 1.01, False)):
        case.args = dataclasses.replace(case.args, loss_limit=float(limit), skip_bad_steps=True)
        new, metrics = case.run(steps.supervised_step)
        assert bool(metrics["bad_step"]) == expected
        assert is_same(new.params, case.old.params) == expected
