"""From a phase's loss to the next state: gradients, in parts if asked, and the optimisers' step.

`args` are the step's `eln_jax.method.steps.StepArguments`, `old` the `TrainState` before it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from eln_jax import target


def update(phase, old, trained, batch, key, args):
    """Differentiates a phase's loss by the trained parts and lets their optimisers step.

    Returns:
        The new state, its teacher still the old one; scalars to log; the batch statistics, those
        of the teacher's pass among them.
    """
    key = jax.random.fold_in(key, old.step)
    grads, total, metrics, batch_stats = _gradients(phase, old, trained, batch, key, args)
    learning_rate = args.learning_rate(old.step)
    params, opt_state = dict(old.params), dict(old.opt_state)
    for name, grad in grads.items():
        updates, opt_state[name] = args.tx[name].update(grad, opt_state[name], params[name])
        updates = jax.tree.map(lambda u: learning_rate * u, updates)
        params[name] = optax.apply_updates(params[name], updates)
    metrics |= {
        "loss": total,
        "learning_rate": learning_rate,
        "grad_norm/student": optax.tree.norm(grads["student"]),
    }
    bad = ~jnp.isfinite(total + metrics["grad_norm/student"]) | (total > args.loss_limit)
    new = old.replace(
        step=old.step + 1,
        params=params,
        batch_stats={name: batch_stats[name] for name in old.batch_stats},
        opt_state=opt_state,
    )
    if args.skip_bad_steps:
        bad |= ~jnp.isfinite(optax.tree.norm(grads))
        new = unless(bad, new, old.replace(step=new.step))
    return new, metrics | {"bad_step": bad}, batch_stats


def unless(bad, new, old):
    """Selects `new`, or `old` if the step is bad."""
    return jax.tree.map(partial(jnp.where, bad), old, new)


def _gradients(phase, old, trained, batch, key, args):
    """Gradients, loss, scalars and batch statistics of a batch, taken in parts one after another.

    Each part is a batch of its own to batch norm and losses; gradients and scalars are the parts'
    means, the running statistics move once a part.
    """
    differentiate = jax.value_and_grad(partial(phase, args=args), has_aux=True)
    before = {**old.batch_stats, "teacher": old.teacher["batch_stats"]}

    def one(batch_stats, part, key):
        teacher = {**old.teacher, "batch_stats": batch_stats["teacher"]}
        seen = old.replace(batch_stats={n: batch_stats[n] for n in old.batch_stats})
        (total, (metrics, moved)), grads = differentiate(
            trained, seen.replace(teacher=teacher), part, key
        )
        return {**batch_stats, **moved}, (grads, total, metrics)

    count = args.accumulation
    if count == 1:
        batch_stats, (grads, total, metrics) = one(before, batch, key)
        return grads, total, dict(metrics), batch_stats

    def add(carried, numbered):
        # One part after another, also where the loop is written out: that is what saves memory.
        (sums, batch_stats), (number, part) = jax.lax.optimization_barrier((carried, numbered))
        batch_stats, found = one(batch_stats, part, jax.random.fold_in(key, number))
        return (jax.tree.map(jnp.add, sums, found), batch_stats), None

    # Every count-th image: so each device keeps the images that it has.
    parts = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(lambda: one(before, first, key)[1])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    # XLA runs the body of a loop many times slower on a CPU.
    unroll = count if target.platform() == "cpu" else 1
    (sums, batch_stats), _ = jax.lax.scan(
        add, (zeros, before), (jnp.arange(count), parts), unroll=unroll
    )
    grads, total, metrics = jax.tree.map(lambda x: x / count, sums)
    return grads, total, dict(metrics), batch_stats
