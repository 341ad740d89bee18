"""Teacher and student as copies of each other, and the moving average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eln_jax.method import state


@pytest.fixture
def train_state():
    """Every array differs from every other."""

    def network(value):
        return {"encoder": {"w": jnp.full((2, 3), value)}, "decoder": {"b": jnp.full(3, value + 1)}}

    def parts(first):
        names = ("student", "aux_decoders", "eln")
        return {name: network(first + 10.0 * i) for i, name in enumerate(names)}

    return state.TrainState(
        step=jnp.int32(5),
        params=parts(100.0),
        batch_stats=parts(200.0),
        teacher={"params": network(300.0), "batch_stats": network(310.0)},
        opt_state=parts(400.0),
    )


def values(tree):
    """A tree on the host, whatever becomes of the buffers."""
    return jax.tree.map(np.array, tree)


def buffers(tree):
    return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)]


def assert_same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_student_variables(train_state):
    variables = state.student_variables(train_state)
    assert variables["params"] is train_state.params["student"]
    assert variables["batch_stats"] is train_state.batch_stats["student"]


def test_start_teacher_copies_the_student_and_changes_nothing_else(train_state):
    before = values(train_state)
    after = values(state.start_teacher(train_state))
    assert_same(after.teacher["params"], before.params["student"])
    assert_same(after.teacher["batch_stats"], before.batch_stats["student"])
    assert_same(after.replace(teacher=before.teacher), before)


def test_reset_student_copies_the_teacher_and_changes_nothing_else(train_state):
    before = values(train_state)
    after = values(state.reset_student(train_state))
    assert_same(after.params["student"], before.teacher["params"])
    assert_same(after.batch_stats["student"], before.teacher["batch_stats"])
    params = {**after.params, "student": before.params["student"]}
    batch_stats = {**after.batch_stats, "student": before.batch_stats["student"]}
    assert_same(after.replace(params=params, batch_stats=batch_stats), before)


@pytest.mark.parametrize("copy", [state.start_teacher, state.reset_student])
def test_student_and_teacher_never_share_memory(train_state, copy):
    copied = copy(train_state)
    assert len(set(buffers(copied))) == len(buffers(copied))


@pytest.mark.parametrize("copy", [state.start_teacher, state.reset_student])
def test_a_copy_survives_donation_and_can_be_donated(train_state, copy):
    # As training does: the copy is compiled and donates, and so does the step after it.
    expected = values(copy(train_state))
    copied = jax.jit(copy, donate_argnums=0)(train_state)
    assert len(set(buffers(copied))) == len(buffers(copied))
    assert_same(values(copied), expected)
    stepped = jax.jit(lambda s: s.replace(step=s.step + 1), donate_argnums=0)(copied)
    assert_same(values(stepped), expected.replace(step=expected.step + 1))


def test_exponential_moving_average_by_hand():
    average = {"a": jnp.array([1.0, 2.0]), "b": {"c": jnp.array([[-4.0]])}}
    value = {"a": jnp.array([3.0, -2.0]), "b": {"c": jnp.array([[0.0]])}}
    result = state.exponential_moving_average(average, value, 0.75)
    np.testing.assert_allclose(result["a"], [1.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(result["b"]["c"], [[-3.0]], rtol=1e-6)


@pytest.mark.parametrize(("decay", "chosen"), [(1.0, 0), (0.0, 1)])
def test_decay_one_keeps_the_average_and_zero_takes_the_value(decay, chosen):
    trees = {"a": jnp.array([0.3, 7.0])}, {"a": jnp.array([-1.1, 0.2])}
    assert_same(state.exponential_moving_average(*trees, decay), trees[chosen])


def test_average_of_a_fixed_student_converges_at_the_decay():
    average, value = jnp.zeros(()), jnp.ones(())
    for _ in range(20):
        average = state.exponential_moving_average(average, value, 0.9)
    np.testing.assert_allclose(average, 1 - 0.9**20, rtol=1e-5)
