"""How processes find each other and share work; trained_model_commands_test has two at work."""

import pytest

from eln_jax.errors import UserError
from eln_jax.evaluation.findings import in_turn
from eln_jax.training import processes


def test_taking_turns_undoes_sharing():
    whole = list(range(7))
    assert in_turn([whole[i::3] for i in range(3)]) == whole
    assert in_turn([whole]) == whole


def test_more_processes_than_images_are_refused(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 3)
    with pytest.raises(UserError, match="3 processes for 2 images"):
        processes.share_of([1, 2])


@pytest.mark.parametrize("place", [{}, {"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}])
def test_a_process_that_nobody_told_its_place(monkeypatch, place):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="JAX_COORDINATOR_ADDRESS=HOST:PORT"):
        processes.join()
