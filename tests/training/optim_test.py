import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eln_jax.training import optim

SETTINGS = {
    "name": "adamw",
    "encoder_factor": 0.1,
    "weight_decay": 0.0,
    "momentum": 0.9,
    "clip_norm": 0.0,
    "train_norm": True,
    "frozen_eln_encoder": False,
}


def params():
    layer = {
        "conv": {"kernel": jnp.ones(3), "bias": jnp.ones(3)},
        "bn": {"scale": jnp.ones(3), "bias": jnp.ones(3)},
    }
    return {
        "student": {"encoder": layer, "decoder": layer},
        "eln": {"encoder": layer, "head": layer},
    }


def first_update(network="student", gradient=0.5, **changes):
    tx = optim.make_optimizers(params(), **(SETTINGS | changes))[network]
    p = params()[network]
    grads = jax.tree.map(lambda x: jnp.full_like(x, gradient), p)
    return tx.update(grads, tx.init(p), p)[0]


def test_the_encoder_learns_at_its_share_of_the_rate():
    update = first_update()
    np.testing.assert_allclose(update["decoder"]["conv"]["kernel"], -1.0, rtol=1e-5)
    np.testing.assert_allclose(update["encoder"]["conv"]["kernel"], -0.1, rtol=1e-5)


def test_frozen_norm_leaves_scale_and_offset_of_the_student_but_not_of_the_eln():
    student, eln = (first_update(n, train_norm=False, weight_decay=0.1) for n in ("student", "eln"))
    assert not student["encoder"]["bn"]["scale"].any()
    assert not student["decoder"]["bn"]["bias"].any()
    assert student["decoder"]["conv"]["bias"].all()
    assert eln["head"]["bn"]["scale"].all()


def test_a_frozen_encoder_of_the_eln_stays_and_its_head_and_the_student_learn():
    frozen = {"frozen_eln_encoder": True, "weight_decay": 0.1}
    student, eln = (first_update(network, **frozen) for network in ("student", "eln"))
    assert not any(leaf.any() for leaf in jax.tree.leaves(eln["encoder"]))
    assert all(leaf.all() for leaf in jax.tree.leaves([eln["head"], student]))


def test_weight_decay_is_decoupled_in_adamw():
    without, with_decay = first_update(), first_update(weight_decay=0.2)
    difference = with_decay["decoder"]["conv"]["kernel"] - without["decoder"]["conv"]["kernel"]
    np.testing.assert_allclose(difference, -0.2, rtol=1e-5)


def test_sgd_with_momentum_follows_torch():
    tx = optim.make_optimizers(params(), **(SETTINGS | {"name": "sgd", "weight_decay": 0.1}))
    p = params()["student"]
    grads = jax.tree.map(lambda x: jnp.full_like(x, 0.5), p)
    state, value, velocity = tx["student"].init(p), 1.0, 0.0
    for _ in range(3):
        update, state = tx["student"].update(grads, state, p)
        p = optax.apply_updates(p, jax.tree.map(lambda u: 0.1 * u, update))
        velocity = 0.9 * velocity + (0.5 + 0.1 * value)
        value -= 0.1 * velocity
    np.testing.assert_allclose(p["decoder"]["conv"]["kernel"], value, rtol=1e-6)


def test_clipping_bounds_the_gradient_norm():
    update = first_update(name="sgd", clip_norm=1.0, encoder_factor=1.0, gradient=100.0)
    np.testing.assert_allclose(optax.tree.norm(update), 1.0, rtol=1e-5)


@pytest.mark.parametrize("frozen", [{"train_norm": False}, {"frozen_eln_encoder": True}])
def test_what_is_frozen_has_no_part_in_the_norm_that_is_clipped(frozen):
    network = "student" if "train_norm" in frozen else "eln"
    changes = frozen | {"clip_norm": 1.0, "encoder_factor": 1.0, "gradient": 100.0}
    update = first_update(network, name="sgd", **changes)
    np.testing.assert_allclose(optax.tree.norm(update), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "halfway"), [("constant", 1.0), ("poly", 0.5**0.9), ("cosine", 0.5)]
)
def test_schedules_start_at_the_rate_and_pass_their_middle(name, halfway):
    schedule = optim.make_schedule(
        name=name, learning_rate=2.0, total_steps=100, power=0.9, warmup_steps=0
    )
    np.testing.assert_allclose(schedule(0), 2.0)
    np.testing.assert_allclose(schedule(50), 2.0 * halfway, rtol=1e-5)


def test_warm_up_rises_from_its_first_step():
    schedule = optim.make_schedule(
        name="constant", learning_rate=1.0, total_steps=100, power=0.9, warmup_steps=4
    )
    np.testing.assert_allclose([schedule(i) for i in range(6)], [0.25, 0.5, 0.75, 1, 1, 1])
