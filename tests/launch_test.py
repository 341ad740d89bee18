"""The launchers: what they print is what they run, against fakes of the commands that they call."""

import itertools
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCRIPTS = ("local.sh", "tpu_vm.sh", "slurm.sbatch")
# Arguments that a careless script tears apart or expands.
AWKWARD = ["--workdir=/mnt/it's here", '--config.data.root=a "b" $HOME *; exit', "--config.x=1\n2"]

# Writes down its name, the variables that matter and its arguments, then does what the test says.
FAKE = """\
#!/usr/bin/env bash
settings=()
for name in "${!JAX_@}" "${!GLIBC_@}"; do settings+=("$name=${!name}"); done
words=("${settings[@]}" "${0##*/}" "$@")
printf '%s\\0' "${#words[@]}" "${words[@]}" >>"$LOG"
# The first of the answers that are left.
take() {
  head -n 1 "$ANSWERS/$1"
  sed 1d "$ANSWERS/$1" >"$ANSWERS/rest"
  mv "$ANSWERS/rest" "$ANSWERS/$1"
}
[[ ! -e $ANSWERS/${0##*/} ]] || source "$ANSWERS/${0##*/}"
"""
# Says that it runs, and then waits for a signal, which it takes as Python does.
WAITING_PYTHON = f"""\
exec {sys.executable} -I -S -c '
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.alarm(60)  # nobody outlives a test that failed
try:
    with open(sys.argv[1], "w") as ready:
        print(os.getpid(), os.environ.get("JAX_PROCESS_ID"), file=ready)
    signal.pause()
except KeyboardInterrupt:
    sys.exit(130)
' "$ANSWERS/ready"
"""


@dataclass
class Machine:
    """A folder with the launchers, and fakes of all that they call."""

    root: Path
    environment: dict[str, str]

    @property
    def answers(self):
        return self.root / "answers"

    @property
    def log(self):
        return self.root / "log"

    def fake(self, path):
        """Makes a fake command at this path in the repository."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(FAKE)
        file.chmod(0o755)

    def start(self, *arguments, **variables):
        # Tests that a shell has put in the background ignore Ctrl-C, and so would what they start.
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(
            arguments,
            cwd=self.root,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments, code=0, **variables):
        """Runs a command to its end; returns its standard output and error."""
        process = self.start(*arguments, **variables)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == code, output + errors
        return output, errors

    def records(self):
        """What the fakes were called with since the last look, a list of words a call."""
        if not self.log.exists():
            return []
        words = self.log.read_text().split("\0")[:-1]
        self.log.unlink()
        calls = []
        while words:
            count = int(words[0])
            calls.append(words[1 : count + 1])
            words = words[count + 1 :]
        return calls

    def printed(self, *arguments, **variables):
        """The lines of a dry run, which runs nothing."""
        output, errors = self.run(*arguments, "--dry-run", **variables)
        assert not errors
        assert not self.records()
        return output.splitlines()

    def pasted(self, lines, **variables):
        """What is called when the lines are pasted into a shell."""
        self.run("bash", "-c", "\n".join(lines), **variables)
        return self.records()

    def executed(self, *arguments, code=0, **variables):
        self.run(*arguments, code=code, **variables)
        return self.records()

    def refusal(self, *arguments, **variables):
        """The sentence with which a launcher refuses; checks that it is one, and the exit code."""
        output, errors = self.run(*arguments, code=2, **variables)
        assert not output
        assert not self.records()
        assert len(errors.splitlines()) == 1, errors
        return errors

    def pipe(self, name):
        """A pipe on which a fake and the test wait for each other."""
        os.mkfifo(self.answers / name)
        return self.answers / name

    def heard(self, name, lines=1):
        """Waits until the fakes have written so many lines into a pipe; returns them."""
        pipe = os.open(self.answers / name, os.O_RDWR)  # for writing too: it never ends
        text = ""
        while text.count("\n") < lines:
            assert select.select([pipe], [], [], 60)[0], "no fake said anything for a minute"
            text += os.read(pipe, 1000).decode()
        os.close(pipe)
        return text.splitlines()


@pytest.fixture
def machine(tmp_path):
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    machine = Machine(
        tmp_path,
        {
            "PATH": f"{tmp_path / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "TMPDIR": "/tmp",
            "LOG": str(tmp_path / "log"),
            "ANSWERS": str(tmp_path / "answers"),
            "GLIBC_TUNABLES": "",  # set: left as it is
        },
    )
    machine.answers.mkdir()
    for name in ("gcloud", "git", "python", "python3", "srun", "scancel", "scontrol", "sleep"):
        machine.fake(f"bin/{name}")
    (machine.answers / "gcloud").write_text(
        "case $* in *queued-resources\\ desc*) echo ACTIVE;; esac"
    )
    return machine


# All of them


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_comment_at_the_top(machine, script):
    output, errors = machine.run("bash", f"launch/{script}", "--help")
    assert not errors
    assert "usage:" in output
    assert "SBATCH --" not in output
    lines = (ROOT / "launch" / script).read_text().splitlines()[1:]
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    assert output.splitlines() == [line.removeprefix("#").removeprefix(" ") for line in comment]


def find_shellcheck():
    beside = Path(sys.executable).with_name("shellcheck")
    return str(beside) if beside.exists() else shutil.which("shellcheck")


@pytest.mark.parametrize("script", [*SCRIPTS, "skypilot.yaml:setup", "skypilot.yaml:run"])
def test_shellcheck_finds_nothing(script):
    shellcheck = find_shellcheck()
    if not shellcheck:
        pytest.skip("shellcheck is not installed; it comes with the extra test")
    name, _, part = script.partition(":")
    text = (ROOT / "launch" / name).read_text()
    found = subprocess.run(
        [shellcheck, "--shell=bash", "-"],
        input=yaml.safe_load(text)[part] if part else text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not found.stdout + found.stderr


@pytest.mark.parametrize("source", ["docs/running.md", *(f"launch/{name}" for name in SCRIPTS)])
def test_the_examples_are_commands_that_the_launchers_take(machine, source):
    text = re.sub(r"^# ?", "", (ROOT / source).read_text(), flags=re.M).replace("\\\n", " ")
    commands = re.findall(
        r"^ *((?:bash |sbatch (?:--\S+ )*)?launch/(?:local|tpu_vm|slurm)\.\S+ +[^\[|\n]*)$",
        text,
        re.M,
    )
    assert commands
    for command in commands:
        command = re.sub("^sbatch .*launch/", "bash launch/", command)
        if "--help" not in command:
            machine.run("bash", "-c", f"{command} --dry-run")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("local.sh --processes=two", "--processes=two"),
        ("local.sh --processes=0", "1 to 999"),
        ("local.sh --processes=2 --port=x", "--port=x"),
        ("tpu_vm.sh", "create, run, logs, watch or delete"),
        ("tpu_vm.sh start --name=n", "no command start"),
        ("tpu_vm.sh create --zone=z --type=v5litepod-8", "--name is missing"),
        ("tpu_vm.sh create --name=n --type=v5litepod-8", "--zone is missing"),
        ("tpu_vm.sh create --name=n --zone=z", "--type is missing"),
        ("tpu_vm.sh create --name=n --zone=z --type=v99-8", "--runtime is missing"),
        ("tpu_vm.sh create --name n", "--flag=value"),
        ("tpu_vm.sh run --name=n --zone=z --workdir=w", "--config is missing"),
        ("tpu_vm.sh run --name=n --zone=z --config=c", "--workdir is missing"),
        ("tpu_vm.sh run --name=n --zone=z --confg.seed=1", "--confg.seed=1"),
        ("tpu_vm.sh watch --name=n --zone=z --config=c --workdir=w", "--type is missing"),
        ("tpu_vm.sh logs --name=n --zone=z --wait=0", "--wait=0"),
        ("slurm.sbatch --workdir=w", "--config is missing"),
        ("slurm.sbatch --config=c", "--workdir is missing"),
        ("slurm.sbatch --config=c --workdir=w", "sbatch"),
    ],
)
def test_wrong_use_is_one_sentence(machine, command, words):
    script, *arguments = command.split()
    sentence = machine.refusal("bash", f"launch/{script}", *arguments)
    assert words in sentence
    assert sentence.startswith(f"launch/{script}: ")


# local.sh


def test_local_trains_the_quickstart(machine):
    lines = machine.printed("launch/local.sh")
    assert lines == [
        "python -m eln_jax.main --config=configs/quickstart.py --workdir=runs/quickstart"
    ]
    assert machine.pasted(lines) == machine.executed("launch/local.sh")


def test_local_takes_the_virtual_environment_or_what_it_is_told(machine):
    machine.fake(".venv/bin/python")
    assert machine.printed("launch/local.sh", "--config=c") == [
        ".venv/bin/python -m eln_jax.main --config=c"
    ]
    assert machine.printed("launch/local.sh", "--config=c", PYTHON="my python") == [
        "my\\ python -m eln_jax.main --config=c"
    ]


def test_local_hands_all_flags_on(machine):
    flags = ["--config=c", *AWKWARD, "--distributed"]
    calls = machine.pasted(machine.printed("launch/local.sh", *flags))
    assert calls == machine.executed("launch/local.sh", *flags)
    assert calls == [["GLIBC_TUNABLES=", "python", "-m", "eln_jax.main", *flags]]


def test_local_starts_several_processes(machine):
    flags = ["--processes=2", "--port=12345", "--config=c", *AWKWARD[:2]]
    lines = machine.printed("launch/local.sh", *flags)
    settings = "JAX_PLATFORMS=cpu JAX_COORDINATOR_ADDRESS=127.0.0.1:12345 JAX_NUM_PROCESSES=2"
    quoted = "--config=c --workdir=/mnt/it\\'s\\ here"
    assert len(lines) == 3
    for index in range(2):
        start = f"env {settings} JAX_PROCESS_ID={index} python -m eln_jax.main {quoted} "
        assert lines[index].startswith(start)
        assert lines[index].endswith(" --distributed &")
    assert lines[2] == "wait"
    calls = machine.pasted(lines)
    assert len(calls) == 2
    assert sorted(calls) == sorted(machine.executed("launch/local.sh", *flags))


def test_local_sets_glibc_for_the_cpu_alone(machine):
    value = "glibc.malloc.hugetlb=1"
    del machine.environment["GLIBC_TUNABLES"]
    lines = machine.printed("launch/local.sh", "--config=c", JAX_PLATFORMS="cpu")
    assert lines == [f"env GLIBC_TUNABLES={value} python -m eln_jax.main --config=c"]
    assert machine.printed("launch/local.sh", "--config=c", JAX_PLATFORMS="cuda") == [
        "python -m eln_jax.main --config=c"
    ]
    mine = machine.printed("launch/local.sh", "--config=c", JAX_PLATFORMS="cpu", GLIBC_TUNABLES="a")
    assert mine == ["python -m eln_jax.main --config=c"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_local_becomes_the_training(machine, number, code):
    machine.pipe("ready")
    (machine.answers / "python").write_text(WAITING_PYTHON)
    process = machine.start("launch/local.sh")
    assert machine.heard("ready")[0].split()[0] == str(process.pid)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_local_forwards_signals_to_all_processes(machine, number, code):
    machine.pipe("ready")
    (machine.answers / "python").write_text(WAITING_PYTHON)
    process = machine.start("launch/local.sh", "--processes=2")
    found = [line.split() for line in machine.heard("ready", lines=2)]
    assert {index for _, index in found} == {"0", "1"}
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    for pid, _ in found:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.parametrize(
    ("codes", "first"), [([0, 0, 0], 0), ([0, 0, 5], 5), ([0, 3, 4], 3), ([2, 0, 1], 2)]
)
def test_local_returns_the_first_exit_code_that_is_not_0(machine, codes, first):
    (machine.answers / "python").write_text(
        f"codes=({' '.join(map(str, codes))}); exit ${{codes[JAX_PROCESS_ID]}}"
    )
    assert len(machine.executed("launch/local.sh", "--processes=3", code=first)) == 3


# tpu_vm.sh

PLACE = ["--name=eln", "--zone=us-west4-a"]
TRAINING = ["--config=configs/voc.py", *AWKWARD]
CREATE = [*PLACE, "--project=p", "--type=v5litepod-16", "--spot", "--setup=mount 'a b' /mnt"]
WATCH = [*PLACE, "--type=v5litepod-8", *TRAINING]


def tpu_vm(*arguments):
    return ["launch/tpu_vm.sh", *arguments]


@pytest.mark.parametrize("name", ["create", "run", "logs", "watch", "delete"])
def test_tpu_vm_teaches_each_command(machine, name):
    output, errors = machine.run(*tpu_vm(name, "--help"))
    assert not errors
    assert output.startswith(f"{name} ")
    assert f"  launch/tpu_vm.sh {name} --name=" in output


def test_tpu_vm_creates_and_installs(machine):
    lines = machine.printed(*tpu_vm("create", *CREATE))
    assert lines[:4] == [
        "git archive --format=tar.gz --output=/tmp/eln_jax-eln.tar.gz HEAD",
        "gcloud compute tpus queued-resources create eln --node-id=eln"
        " --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite"
        " --zone=us-west4-a --quiet --project=p --spot",
        "gcloud compute tpus queued-resources describe eln --zone=us-west4-a --quiet --project=p"
        " --format=value\\(state.state\\)",
        "gcloud compute tpus tpu-vm scp /tmp/eln_jax-eln.tar.gz eln:eln_jax.tar.gz"
        " --zone=us-west4-a --quiet --project=p --worker=all",
    ]
    calls = machine.pasted(lines)
    assert calls == machine.executed(*tpu_vm("create", *CREATE))
    ssh = "GLIBC_TUNABLES= gcloud compute tpus tpu-vm ssh eln --zone=us-west4-a --quiet --project=p"
    assert [call[:-1] for call in calls[4:]] == [[*ssh.split(), "--worker=all"]] * 2
    assert calls[4][-1] == "--command=mount 'a b' /mnt"
    assert ".venv/bin/pip install" in calls[5][-1]


@pytest.mark.parametrize(
    ("kind", "runtime"),
    [
        ("v6e-8", "v2-alpha-tpuv6e"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v4-8", "tpu-ubuntu2204-base"),
    ],
)
def test_tpu_vm_knows_the_software_of_a_type(machine, kind, runtime):
    lines = machine.printed(*tpu_vm("create", *PLACE, f"--type={kind}"))
    assert f"--runtime-version={runtime} " in lines[1]
    mine = machine.printed(*tpu_vm("create", *PLACE, f"--type={kind}", "--runtime=mine"))
    assert "--runtime-version=mine " in mine[1]


@pytest.mark.parametrize("name", ["create", "run", "logs", "delete", "watch"])
def test_tpu_vm_uses_an_existing_one(machine, name):
    lines = machine.printed(*tpu_vm(name, *PLACE, "--existing", *TRAINING))
    assert lines
    assert "queued-resources" not in "".join(lines)


def test_tpu_vm_waits_for_what_it_asked_for(machine):
    (machine.answers / "gcloud").write_text("[[ $* != *describe* ]] || take states")
    (machine.answers / "states").write_text("WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n")
    calls = machine.executed(*tpu_vm("create", *CREATE, "--wait=7"))
    assert [call[1:] for call in calls if call[1] == "sleep"] == [["sleep", "7"]] * 2
    (machine.answers / "states").write_text("CREATING\nFAILED\n")
    calls = machine.executed(*tpu_vm("create", *CREATE), code=1)
    assert not any("scp" in call for call in calls)


def test_tpu_vm_stops_where_gcloud_fails(machine):
    (machine.answers / "gcloud").write_text("exit 9")
    assert len(machine.executed(*tpu_vm("create", *CREATE), code=9)) == 2
    assert len(machine.executed(*tpu_vm("delete", *PLACE), code=9)) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "end"),
    [
        ("run", TRAINING, None),
        ("logs", [], ["--worker=0", "--command=tail -n 100 -F eln_jax/train.log"]),
        ("logs", ["--host=3"], ["--worker=3", "--command=tail -n 100 -F eln_jax/train.log"]),
        ("delete", [], ["--quiet", "--force"]),
    ],
)
def test_tpu_vm_prints_what_it_runs(machine, name, arguments, end):
    lines = machine.printed(*tpu_vm(name, *PLACE, *arguments))
    assert len(lines) == 1
    calls = machine.pasted(lines)
    assert calls == machine.executed(*tpu_vm(name, *PLACE, *arguments))
    assert "--zone=us-west4-a" in calls[0]
    assert end is None or calls[0][-2:] == end


def test_tpu_vm_says_that_gcloud_is_missing(machine):
    tools = machine.root / "tools"
    tools.mkdir()
    for name in ("bash", "env", "dirname"):
        (tools / name).symlink_to(shutil.which(name) or name)
    words = machine.refusal(*tpu_vm("delete", *PLACE), PATH=str(tools))
    assert "gcloud is not installed" in words


def remote(machine, name, *arguments):
    """What a host is told to run."""
    machine.records()
    calls = machine.executed(*tpu_vm(name, *PLACE, *arguments))
    return calls[-1][-1].removeprefix("--command=")


def question(machine):
    """How a host is asked about its training."""
    lines = machine.printed(*tpu_vm("watch", *WATCH))
    return machine.pasted(lines[3:4])[0][-1].removeprefix("--command=")


@pytest.mark.skipif(not shutil.which("flock"), reason="a TPU VM has flock, this machine does not")
def test_a_host_trains_once_at_a_time_and_remembers_the_end(machine):
    ask, start = question(machine), remote(machine, "run", *PLACE, *TRAINING)
    assert machine.run("bash", "-c", ask) == ("none\n", "")  # nothing is installed
    machine.fake("eln_jax/.venv/bin/python")
    assert machine.run("bash", "-c", ask)[0] == "none\n"
    machine.pipe("ready")
    go = machine.pipe("go")
    (machine.answers / "python").write_text(
        'echo "a loss"; echo >"$ANSWERS/ready"; read -r <"$ANSWERS/go"; exit 3'
    )
    machine.run("bash", "-c", start)  # returns while the training runs
    machine.heard("ready")
    assert machine.run("bash", "-c", ask)[0] == "running\n"
    assert machine.run("bash", "-c", start, code=1)[1] == "A training runs already.\n"
    go.write_text("\n")
    machine.run("flock", "eln_jax/train.lock", "true")
    assert machine.run("bash", "-c", ask)[0] == "3\n"
    assert (machine.root / "eln_jax/train.log").read_text() == "a loss\n"
    flags = ["-m", "eln_jax.main", "--distributed", "--previous_if_damaged", *TRAINING]
    assert machine.records() == [["GLIBC_TUNABLES=", "python", *flags]]


def test_a_host_installs_what_was_sent(machine):
    install = machine.pasted(machine.printed(*tpu_vm("create", *CREATE))[-1:])[0][-1]
    machine.fake("eln_jax/.venv/bin/pip")
    subprocess.run(
        ["tar", "-czf", "eln_jax.tar.gz", "-C", ROOT, "pyproject.toml"],
        cwd=machine.root,
        check=True,
    )
    machine.run("bash", "-c", install.removeprefix("--command="))
    assert (machine.root / "eln_jax/pyproject.toml").exists()
    assert [call[1] for call in machine.records()] == ["python3", "python3", "pip"]


# Of the request, of the TPU VM, and about the training.
WATCHED = """\
case $* in
  *queued-resources\\ describe*)
    state=$(take states)
    if [[ $state == GONE ]]; then echo 'ERROR: NOT_FOUND: no such thing' >&2; exit 1; fi
    if [[ $state == BROKEN ]]; then echo 'ERROR: no network' >&2; exit 1; fi
    echo "$state" ;;
  *tpu-vm\\ describe*) take nodes ;;
  *flock\\ -n\\ train.lock*echo\\ running*)
    answer=$(take trainings)
    [[ $answer != LOST ]] || exit 255
    echo "$answer" ;;
esac
"""


def watched(machine, *arguments, states="", nodes="", trainings="", code=0):
    """Watches while gcloud answers in this order; returns the calls and what is said."""
    (machine.answers / "gcloud").write_text(WATCHED)
    for name, lines in {"states": states, "nodes": nodes, "trainings": trainings}.items():
        (machine.answers / name).write_text("".join(f"{line}\n" for line in lines.split()))
    _, errors = machine.run(*tpu_vm("watch", *WATCH, *arguments), code=code)
    for name in ("states", "nodes", "trainings"):
        assert not (machine.answers / name).read_text()  # all was asked for
    return [call[1:] for call in machine.records()], errors


def actions(calls):
    """What was done, without looking and waiting."""
    return [
        "start" if "rm -f exit_code" in call[-1] else "install" if "pip" in call[-1] else call[4]
        for call in calls
        if call[0] == "gcloud" and call[4] != "describe" and "echo running" not in call[-1]
    ]


def test_watch_starts_again_after_a_preemption(machine):
    calls, errors = watched(
        machine,
        states="ACTIVE ACTIVE SUSPENDING SUSPENDED WAITING_FOR_RESOURCES ACTIVE ACTIVE ACTIVE",
        nodes="READY READY READY READY",
        trainings="running LOST running 0",
    )
    assert actions(calls) == ["delete", "create", "scp", "install", "start"]
    waits = [call[1] for call in calls if call[0] == "sleep"]
    assert waits == ["60", "120", "120", "60", "60", "60"]
    assert "finished" in errors
    # The dry run printed the same commands in the same order.
    calls = [call for call in calls if call[0] != "sleep"]
    (machine.answers / "gcloud").unlink()
    printed = machine.pasted(machine.printed(*tpu_vm("watch", *WATCH)))
    once = dict.fromkeys(tuple(call) for call in calls)
    assert list(once) == list(dict.fromkeys(tuple(call[1:]) for call in printed))


def test_watch_creates_what_is_not_there(machine):
    calls, _ = watched(
        machine, "--then-delete", states="GONE ACTIVE ACTIVE", nodes="READY", trainings="0"
    )
    assert actions(calls) == ["create", "scp", "install", "start", "delete"]


def test_watch_runs_again_what_ended_early(machine):
    calls, _ = watched(
        machine,
        states="ACTIVE ACTIVE ACTIVE",
        nodes="READY READY READY",
        trainings="none 143 0",
    )
    assert actions(calls) == ["scp", "install", "start"] * 2


def test_watch_sees_that_the_node_alone_was_taken_away(machine):
    calls, _ = watched(
        machine, states="ACTIVE ACTIVE ACTIVE", nodes="PREEMPTED READY", trainings="0"
    )
    assert actions(calls) == ["delete", "create", "scp", "install", "start"]


def test_watch_ends_when_the_training_is_refused(machine):
    calls, errors = watched(machine, states="ACTIVE", nodes="READY", trainings="2", code=2)
    assert not actions(calls)
    assert "logs --name=eln" in errors


def test_watch_gives_up_after_so_many_starts(machine):
    calls, errors = watched(
        machine,
        "--restarts=2",
        "--then-delete",
        states="ACTIVE ACTIVE ACTIVE",
        nodes="READY READY READY",
        trainings="1 1 1",
        code=1,
    )
    assert actions(calls) == [*["scp", "install", "start"] * 2, "delete"]
    assert "giving up" in errors


def test_watch_waits_longer_and_longer_while_nothing_answers(machine):
    calls, errors = watched(machine, states="BROKEN " * 6 + "ACTIVE", nodes="READY", trainings="0")
    assert [call[1] for call in calls if call[0] == "sleep"] == [
        *("120", "240", "480", "900", "900", "900")
    ]
    assert not actions(calls)
    assert "no network" in errors


def test_watch_does_not_replace_an_existing_one(machine):
    calls, errors = watched(
        machine, "--existing", "--restarts=1", nodes="PREEMPTED PREEMPTED", code=1
    )
    assert not actions(calls)
    assert "yours to create" in errors


# slurm.sbatch

JOB = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "6"}
SBATCH = ["bash", "launch/slurm.sbatch", "--config=c", *AWKWARD]


@pytest.mark.parametrize(
    ("variables", "start", "end"),
    [
        ({}, "srun --kill-on-bad-exit=0 --cpus-per-task=6 python", []),
        (
            {"SLURM_GPUS_ON_NODE": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NTASKS": "1"},
            "srun --kill-on-bad-exit=0 --cpus-per-task=6 --gpu-bind=none python",
            [],
        ),
        (
            {"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NTASKS": "8"},
            "srun --kill-on-bad-exit=0 --cpus-per-task=6 --gpu-bind=none python",
            ["--distributed"],
        ),
    ],
)
def test_slurm_prints_what_it_runs(machine, variables, start, end):
    lines = machine.printed(*SBATCH, **JOB, **variables)
    assert len(lines) == 1
    calls = machine.pasted(lines)
    assert calls == machine.executed(*SBATCH, **JOB, **variables)
    words = [
        *start.split(),
        "-m",
        "eln_jax.main",
        "--previous_if_damaged",
        "--config=c",
        *AWKWARD,
        *end,
    ]
    assert calls == [["GLIBC_TUNABLES=", *words]]


def test_slurm_can_be_looked_at_outside_of_a_job(machine):
    assert machine.printed("bash", "launch/slurm.sbatch", "--config=c", "--workdir=w") == [
        "srun --kill-on-bad-exit=0 --cpus-per-task=8 python -m eln_jax.main --previous_if_damaged "
        "--config=c --workdir=w"
    ]


def test_slurm_wants_a_process_a_gpu(machine):
    variables = {"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "1"}
    assert "--ntasks-per-node=4" in machine.refusal(*SBATCH, **JOB, **variables)


def test_slurm_asks_for_a_signal_and_names_no_site():
    options = re.findall(r"^#SBATCH (.*)$", (ROOT / "launch/slurm.sbatch").read_text(), re.M)
    assert "--signal=B:USR1@300" in options
    assert "--requeue" in options
    assert not re.search("partition|account|qos|constraint", " ".join(options))


def before_the_time_limit(machine, code):
    """Sends a job the signal, whose training then ends with this exit code; returns the calls."""
    machine.pipe("ready")
    machine.pipe("stop")
    (machine.answers / "srun").write_text(
        f'echo >"$ANSWERS/ready"; read -r <"$ANSWERS/stop"; exit {code}'
    )
    (machine.answers / "scancel").write_text('echo >"$ANSWERS/stop"')
    process = machine.start(*SBATCH, **JOB)
    machine.heard("ready")
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == code
    return [call[1:] for call in machine.records()]


def test_slurm_saves_and_requeues_before_the_time_limit(machine):
    calls = before_the_time_limit(machine, 143)
    assert calls[1:] == [["scancel", "--signal=TERM", "7"], ["scontrol", "requeue", "7"]]


def test_slurm_does_not_requeue_what_has_finished(machine):
    assert before_the_time_limit(machine, 0)[1:] == [["scancel", "--signal=TERM", "7"]]


@pytest.mark.parametrize("code", [1, 2, 143])
def test_slurm_does_not_requeue_by_itself(machine, code):
    (machine.answers / "srun").write_text(f"exit {code}")
    assert len(machine.executed(*SBATCH, **JOB, code=code)) == 1


# skypilot.yaml


@pytest.fixture
def task():
    return yaml.safe_load((ROOT / "launch/skypilot.yaml").read_text())


def test_skypilot_recovers_on_spot_machines(task):
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["job_recovery"]["max_restarts_on_errors"] > 0
    # What is appended to needs the cached mode; an empty variable counts as missing.
    assert task["file_mounts"]["/runs"] == {"name": "${BUCKET}", "mode": "MOUNT_CACHED"}
    assert all(task["envs"].values())
    assert "sky launch --dryrun launch/skypilot.yaml" in (ROOT / "launch/skypilot.yaml").read_text()


def test_skypilot_installs(machine, task):
    machine.fake(".venv/bin/pip")
    calls = machine.executed("bash", "-c", task["setup"])
    assert [" ".join(call[1:]) for call in calls] == [
        "python3 -m pip install --quiet uv",
        "python3 -m uv venv --quiet --allow-existing --seed --python 3.12 .venv",
        "pip install --quiet -e .[cuda,hub,lite,tfds] -c constraints.txt",
    ]


def test_skypilot_trains(machine, task):
    machine.fake(".venv/bin/python")
    calls = machine.executed("bash", "-c", task["run"], **task["envs"])
    start = [
        "python",
        "-m",
        "eln_jax.main",
        "--previous_if_damaged",
        "--config=configs/quickstart.py",
    ]
    assert calls == [["GLIBC_TUNABLES=", *start, "--workdir=/runs/quickstart", "--config.seed=0"]]
    variables = task["envs"] | {
        "FLAGS": "--config.data.root='/data/my VOC' --config.x=\"it's\"",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": "1",
    }
    calls = machine.executed("bash", "-c", task["run"], **variables)
    assert calls[0][:3] == [
        "JAX_COORDINATOR_ADDRESS=10.0.0.1:12321",
        "JAX_NUM_PROCESSES=2",
        "JAX_PROCESS_ID=1",
    ]
    flags = ["--config.data.root=/data/my VOC", "--config.x=it's", "--distributed"]
    assert calls[0][-3:] == flags


def test_skypilot_fails_when_the_training_fails(machine, task):
    machine.fake(".venv/bin/python")
    (machine.answers / "python").write_text("exit 2")
    machine.run("bash", "-c", task["run"], code=2, **task["envs"])
