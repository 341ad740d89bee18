#!/usr/bin/env bash
# Trains on this machine, on all its devices: CPU, one GPU, several GPUs, or the host of a TPU VM.
#
# usage: launch/local.sh [--dry-run] [--processes=N [--port=PORT]] [flags of eln_jax.main]
#
#   launch/local.sh
#       the built-in quickstart, in runs/quickstart
#   launch/local.sh --config=configs/voc.py --workdir=runs/voc --config.data.root=VOC
#       the same as python -m eln_jax.main with these flags
#   launch/local.sh --dry-run --config=configs/voc.py --workdir=runs/voc
#       prints the command, quoted so that it can be pasted, and runs nothing
#   launch/local.sh --processes=2 --config=configs/quickstart.py:short --workdir=runs/two
#       two processes that share the work over loopback, to try what several hosts do
#
# Run it in the repository's root. Python is .venv/bin/python if there is one, else python;
# PYTHON=FILE takes another. One process uses all devices of a machine, so --processes makes
# nothing faster; its processes use the CPU unless JAX_PLATFORMS says otherwise, because several
# cannot share a GPU.
#
# Ctrl-C and SIGTERM reach the training, which saves and stops; the same command goes on from
# there. Exit code: the training's (0 finished, 2 a mistake, 3 the folder cannot be written to, 130
# or 143 stopped and saved); with --processes the first that is not 0, in the order of the processes.
set -euo pipefail

# glibc's settings for trainings on Linux that use the CPU alone: huge pages, with which a step took
# a tenth less time (docs/performance.md). GLIBC_TUNABLES set outside is left as it is.
cpu_tunables="glibc.malloc.hugetlb=1"

help() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "${BASH_SOURCE[0]}"; }

fail() {
  echo "launch/local.sh: $1" >&2
  exit 2
}

# Prints a command on one line, quoted for the shell.
show() {
  local line
  line=$(printf ' %q' "$@")
  echo "${line:1}"
}

only_cpu() {
  [[ ${JAX_PLATFORMS:-} == cpu ]] && return
  [[ -z ${JAX_PLATFORMS:-} ]] && ! compgen -G '/dev/nvidia[0-9]*' >/dev/null &&
    ! compgen -G '/dev/accel*' >/dev/null && ! compgen -G '/dev/vfio/[0-9]*' >/dev/null
}

dry_run="" processes=1 port=$((10000 + $$ % 20000)) flags=(-m eln_jax.main) given=""
for argument in "$@"; do
  case $argument in
    --help | -h) help && exit ;;
    --dry-run) dry_run=yes ;;
    --processes=*) processes=${argument#*=} ;;
    --port=*) port=${argument#*=} ;;
    *) flags+=("$argument") given=yes ;;
  esac
done
[[ $processes =~ ^[1-9][0-9]{0,2}$ ]] ||
  fail "--processes=$processes: give a whole number from 1 to 999."
[[ $port =~ ^[1-9][0-9]{0,4}$ ]] || fail "--port=$port: give the number of a free port."
[[ $given ]] || flags+=(--config=configs/quickstart.py --workdir=runs/quickstart)

python=${PYTHON:-}
if [[ -z $python ]]; then
  python=python
  [[ -x .venv/bin/python ]] && python=.venv/bin/python
fi
settings=()
if [[ $cpu_tunables && -z ${GLIBC_TUNABLES+set} && $(uname) == Linux ]]; then
  if ((processes > 1)) || only_cpu; then settings=("GLIBC_TUNABLES=$cpu_tunables"); fi
fi

if ((processes == 1)); then
  command=("$python" "${flags[@]}")
  [[ ${#settings[@]} -eq 0 ]] || command=(env "${settings[@]}" "${command[@]}")
  if [[ $dry_run ]]; then
    show "${command[@]}"
    exit
  fi
  exec "${command[@]}" # becomes the training, so that signals reach it
fi

settings+=("JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}")
settings+=("JAX_COORDINATOR_ADDRESS=127.0.0.1:$port" "JAX_NUM_PROCESSES=$processes")
pids=() asked=""
# Until all have started a signal is only noted.
trap 'asked=TERM' TERM HUP
trap 'asked=INT' INT
# Each process becomes a group of its own: Ctrl-C reaches it through this script alone, once, and is
# not ignored as it is in plain background processes.
set -m
for ((index = 0; index < processes; index++)); do
  command=(env "${settings[@]}" "JAX_PROCESS_ID=$index" "$python" "${flags[@]}" --distributed)
  if [[ $dry_run ]]; then
    echo "$(show "${command[@]}") &"
  else
    "${command[@]}" </dev/null &
    pids+=("$!")
  fi
done
if [[ $dry_run ]]; then
  echo wait
  exit
fi

forward() {
  interrupted=yes
  kill -"$1" "${pids[@]}" 2>/dev/null || true
}
trap 'forward TERM' TERM HUP
trap 'forward INT' INT
[[ -z $asked ]] || forward "$asked"

first=0
for pid in "${pids[@]}"; do
  # A signal ends `wait` early: then the process is still to be waited for.
  while :; do
    interrupted="" code=0
    wait "$pid" || code=$?
    [[ $interrupted ]] || break
  done
  ((first)) || first=$code
done
exit "$first"
