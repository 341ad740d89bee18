import signal

import pytest

from eln_jax.training.interruption import StopRequest


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_is_a_request(number, code, capsys):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        assert stop.exit_code == 0
        signal.raise_signal(number)
        assert stop.requested
        assert stop.exit_code == code
    assert signal.getsignal(number) is before
    assert "saving" in capsys.readouterr().out


def test_a_second_ctrl_c_interrupts_at_once():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # whoever sends it twice is not impatient
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.exit_code == 143


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), StopRequest():
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("again", [False, True])
def test_both_handlers_come_back_and_one_request_may_follow_another(again):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as first:
        if again:
            signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with StopRequest() as second:  # as the supervised-only run begins after the first run
        assert not second.requested
        signal.raise_signal(signal.SIGINT)
    assert (first.requested, second.exit_code) == (again, 130)


def test_work_goes_on_to_its_end_after_the_first_ctrl_c_but_not_after_the_second():
    done, before = [], signal.getsignal(signal.SIGINT)

    def work(stop):
        for step in range(5):
            if step in (1, 3):
                signal.raise_signal(signal.SIGINT)
            done.append((step, stop.requested))

    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        work(stop)
    assert done == [(0, False), (1, True), (2, True)]
    assert signal.getsignal(signal.SIGINT) is before
