import signal
import subprocess
import sys
from pathlib import Path

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


def test_compiled_code_that_does_not_return_is_answered_and_ended(tmp_path):
    # As a compilation does, this function lets no line of Python run in the main thread.
    script = tmp_path / "compiles.py"
    script.write_text(
        "import hashlib\n"
        "from eln_jax.training.interruption import StopRequest\n"
        "with StopRequest() as stop:\n"
        "    stop.doing = 'compiling'\n"
        "    print('begins', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'a', b'b', 2**30)\n"
    )
    process = subprocess.Popen(
        [sys.executable, script],
        cwd=Path(__file__).parent.parent.parent,
        env={"PYTHONPATH": "."},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "begins\n"
        process.send_signal(signal.SIGINT)
        assert "stopping after compiling and saving" in process.stdout.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == "eln_jax: stopped by Ctrl-C.\n"
