#!/usr/bin/env bash
# Trains on a Cloud TPU VM, or on a slice of several hosts, with gcloud.
#
# usage: launch/tpu_vm.sh create|run|logs|watch|delete --name=NAME --zone=ZONE [flags]
#        launch/tpu_vm.sh COMMAND --help
#
#   launch/tpu_vm.sh create --name=eln --zone=us-west4-a --type=v5litepod-8 --spot
#   launch/tpu_vm.sh run --name=eln --zone=us-west4-a \
#       --config=configs/voc.py --workdir=/mnt/share/voc --config.data.root=/mnt/share/VOC \
#       --config.batch_size_labeled=8 --config.batch_size_unlabeled=8
#   launch/tpu_vm.sh logs --name=eln --zone=us-west4-a
#   launch/tpu_vm.sh delete --name=eln --zone=us-west4-a
#
# watch does all of it: it creates what is missing, runs, starts again after a preemption and, with
# --then-delete, deletes at the end.
#
# flags of every command:
#   --name=NAME        of the TPU VM and of its queued resource
#   --zone=ZONE        where it is, as us-west4-a
#   --project=PROJECT  (default: gcloud's)
#   --existing         a TPU VM of that name is there, made in another way than by create: use it
#   --dry-run          print the commands, quoted so that they can be pasted, and run nothing
#
# Each host gets the last commit of this repository, not what was changed since. --workdir is a
# folder that all hosts see and that outlives them: NFS, Filestore or a mounted bucket; --setup
# mounts it. What costs money: docs/running.md. Exit code: 0, 1 if it
# gave up waiting, 2 for a mistake, else gcloud's.
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
script=launch/tpu_vm.sh

fail() {
  note "$1"
  exit 2
}

note() { echo "$script: $1" >&2; }

# Runs a command, or prints it on one line, quoted for the shell.
act() {
  local line
  if [[ $dry_run ]]; then
    line=$(printf ' %q' "$@")
    echo "${line:1}"
  else
    "$@"
  fi
}

on_all_hosts() { act "${ssh[@]}" --worker=all --command="$1"; }

# create asks for a TPU as a queued resource, waits until it is there, and installs eln_jax on all
# its hosts. Ctrl-C ends the waiting, not the request; delete withdraws it.
#
#   launch/tpu_vm.sh create --name=eln --zone=us-west4-a --type=v5litepod-8 --spot \
#       --setup='sudo mkdir -p /mnt/share; sudo mount 10.0.0.2:/share /mnt/share; mountpoint /mnt/share'
#
#   --type=TYPE         accelerator type: v5litepod-8 is one host, v5litepod-16 is a slice of four
#   --runtime=VERSION   software of the TPU VM (default: the one for that type)
#   --spot              cheaper, and may be taken away at any time: see watch
#   --setup=COMMAND     shell command that each host runs before every installation, and so perhaps
#                       more than once: to mount what it needs
#   --wait=SECONDS      between two looks at the request (default: 60)
create() {
  pack && obtain
}

# Once, before anything else: what is committed later stays out.
pack() { act git archive --format=tar.gz --output="$archive" HEAD; }

obtain() {
  if [[ -z $existing ]]; then
    act "${request[@]}" || return
    wait_until_there || return
  fi
  install
}

wait_until_there() {
  local state
  if [[ $dry_run ]]; then
    act "${describe_request[@]}"
    return
  fi
  while :; do
    state=$(state_of_request)
    case $state in
      ACTIVE) return ;;
      gone | FAILED | SUSPENDING | SUSPENDED)
        note "the request $name is $state: nothing was created."
        return 1
        ;;
    esac
    note "the request $name is $state; the next look is in $wait s."
    sleep "$wait"
  done
}

# The state of the queued resource: ACTIVE, WAITING_FOR_RESOURCES, ...; gone; or unknown, when it
# could not be asked.
state_of_request() {
  if "${describe_request[@]}" 2>"$errors"; then
    return
  elif grep --quiet NOT_FOUND "$errors"; then
    echo gone
  else
    cat "$errors" >&2
    echo unknown
  fi
}

install() {
  act "${scp[@]}" || return
  [[ -z $setup ]] || on_all_hosts "$setup" || return
  # uv brings the Python that eln_jax needs: that of the TPU VM may be too old.
  on_all_hosts 'mkdir -p eln_jax && tar -xzf eln_jax.tar.gz -C eln_jax && cd eln_jax &&'\
' python3 -m pip install --quiet --user uv &&'\
' python3 -m uv venv --quiet --allow-existing --seed --python 3.12 .venv &&'\
' .venv/bin/pip install --quiet -e ".[hub,lite,tfds]" "jax[tpu]" -c constraints.txt'
}

# run starts the training on all hosts and returns. It goes on when this terminal closes. Started
# again, it goes on from the last checkpoint in --workdir; while one runs, no second one starts.
#
#   launch/tpu_vm.sh run --name=eln --zone=us-west4-a \
#       --config=configs/voc.py --workdir=/mnt/share/voc --config.data.root=/mnt/share/VOC \
#       --config.batch_size_labeled=8 --config.batch_size_unlabeled=8
#
#   --config=FILE, --workdir=DIR, --config.FIELD=VALUE   as for python -m eln_jax.main
run() { on_all_hosts "$start"; }

# logs follows what the first host writes; Ctrl-C ends the following, not the training.
#
#   launch/tpu_vm.sh logs --name=eln --zone=us-west4-a
#
#   --host=NUMBER   another host (default: 0, which speaks for all)
logs() { act "${ssh[@]}" --worker="$host" --command='tail -n 100 -F eln_jax/train.log'; }

# watch looks at request and training until the training has finished. It creates the TPU if there
# is none, installs and runs if nothing runs, and after a preemption deletes what is left of the
# request, creates it anew and runs again, from the last checkpoint. It takes the flags of create
# and of run. It works while its terminal is open: leave it in tmux on a machine that stays on.
# The dry run prints what a preemption leads to: three looks, then the TPU anew.
#
#   launch/tpu_vm.sh watch --name=eln --zone=us-west4-a --type=v5litepod-8 --spot --then-delete \
#       --config=configs/voc.py --workdir=/mnt/share/voc --config.data.root=/mnt/share/VOC \
#       --config.batch_size_labeled=8 --config.batch_size_unlabeled=8
#
#   --wait=SECONDS   between two looks (default: 60); twice as long after each try that failed, at
#                    most 900
#   --restarts=N     give up after so many starts (default: 50)
#   --then-delete    delete the TPU when watch ends: finished, refused or given up
watch() {
  local code=0
  pack
  if [[ $dry_run ]]; then
    [[ $existing ]] || act "${describe_request[@]}"
    act "${describe_node[@]}" && act "${ask_training[@]}"
    [[ $existing ]] || delete
    obtain && run
  else
    watch_until_the_end || code=$?
  fi
  [[ -z $then_delete ]] || delete || return
  return "$code"
}

watch_until_the_end() {
  local starts=0 pause=$wait found
  while :; do
    found=$(look)
    case $found in
      0)
        note "the training has finished."
        return
        ;;
      2)
        note "the training refused its flags or data: $script logs --name=$name --zone=$zone"
        return 2
        ;;
      running) pause=$wait ;;
      preempted | gone | none | [0-9]*)
        if ((starts == restarts)); then
          note "$found after $starts starts: giving up."
          return 1
        fi
        starts=$((starts + 1))
        note "found: $found; start $starts of at most $restarts."
        if start_again "$found"; then pause=$wait; else pause=$(longer "$pause"); fi
        ;;
      *)
        [[ $found != unknown ]] || pause=$(longer "$pause")
        note "found: $found; the next look is in $pause s."
        ;;
    esac
    sleep "$pause"
  done
}

longer() { echo $(($1 * 2 < 900 ? $1 * 2 : 900)); }

# What there is: gone, preempted, or a state of the request or TPU VM; running; none, if nothing
# was started; the exit code of what has ended.
look() {
  local state
  if [[ -z $existing ]]; then
    state=$(state_of_request)
    case $state in
      ACTIVE) ;;
      FAILED | SUSPENDED) echo preempted && return ;;
      *) echo "$state" && return ;;
    esac
  fi
  state=$("${describe_node[@]}") || state=unknown
  case $state in
    READY) "${ask_training[@]}" || echo unknown ;;
    PREEMPTED | TERMINATED) echo preempted ;;
    *) echo "$state" ;;
  esac
}

start_again() {
  if [[ $1 == preempted || $1 == gone ]]; then
    if [[ $existing ]]; then
      note "with --existing the TPU VM is yours to create."
      return 1
    fi
    [[ $1 == gone ]] || delete || return
    obtain && run
  else
    install && run
  fi
}

# delete ends the TPU, and with it its cost. A training that still runs loses what it did since its
# last checkpoint.
#
#   launch/tpu_vm.sh delete --name=eln --zone=us-west4-a
delete() { act "${remove[@]}"; }

# The comment at the top, or the one above a command.
help() {
  awk -v name="$1" '
    /^#!/ { next }
    /^#/ { sub(/^# ?/, ""); text = text $0 "\n"; next }
    name == "" || index($0, name "() {") == 1 { printf "%s", text; exit }
    { text = "" }' "$script"
}

command=${1:-}
case $command in
  create | run | logs | watch | delete) shift ;;
  --help | -h) help "" && exit ;;
  "") fail "say what to do: create, run, logs, watch or delete; see --help." ;;
  *) fail "there is no command $command: use create, run, logs, watch or delete; see --help." ;;
esac

name="" zone="" project="" type="" runtime="" setup="" host=0 wait=60 restarts=50
dry_run="" spot="" existing="" then_delete="" config="" workdir=""
# Nobody may be there to choose if a checkpoint is damaged.
training=(.venv/bin/python -m eln_jax.main --distributed --previous_if_damaged)
for argument in "$@"; do
  case $argument in
    --help | -h) help "$command" && exit ;;
    --dry-run) dry_run=yes ;;
    --spot) spot=yes ;;
    --existing) existing=yes ;;
    --then-delete) then_delete=yes ;;
    --name=*) name=${argument#*=} ;;
    --zone=*) zone=${argument#*=} ;;
    --project=*) project=${argument#*=} ;;
    --type=*) type=${argument#*=} ;;
    --runtime=*) runtime=${argument#*=} ;;
    --setup=*) setup=${argument#*=} ;;
    --host=*) host=${argument#*=} ;;
    --wait=*) wait=${argument#*=} ;;
    --restarts=*) restarts=${argument#*=} ;;
    --config=*) config=yes training+=("$argument") ;;
    --workdir=*) workdir=yes training+=("$argument") ;;
    --config.*=*) training+=("$argument") ;;
    *) fail "$argument is not known; write flags as --flag=value; see $script $command --help." ;;
  esac
done
for flag in name zone; do
  [[ ${!flag} ]] || fail "--$flag is missing; see $script $command --help."
done
for flag in wait restarts; do
  [[ ${!flag} =~ ^[1-9][0-9]{0,4}$ ]] || fail "--$flag=${!flag}: give a whole number from 1."
done
if [[ $command == run || $command == watch ]]; then
  [[ $config ]] || fail "--config is missing; see $script $command --help."
  [[ $workdir ]] || fail "--workdir is missing; see $script $command --help."
fi
if [[ ($command == create || $command == watch) && -z $existing ]]; then
  [[ $type ]] || fail "--type is missing, as v5litepod-8; see $script create --help."
  case $runtime:$type in
    :v6e-*) runtime=v2-alpha-tpuv6e ;;
    :v5p-*) runtime=v2-alpha-tpuv5 ;;
    :v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    :v[234]-*) runtime=tpu-ubuntu2204-base ;;
    :*) fail "--runtime is missing: none is known here for --type=$type." ;;
  esac
fi

# The commands of gcloud, in the order of a training's life. Quiet: nobody may be there to answer.
place=(--zone="$zone" --quiet)
[[ -z $project ]] || place+=(--project="$project")
queued=(gcloud compute tpus queued-resources)
node=(gcloud compute tpus tpu-vm)
archive=${TMPDIR:-/tmp}/eln_jax-$name.tar.gz
request=("${queued[@]}" create "$name" --node-id="$name" --accelerator-type="$type")
request+=(--runtime-version="$runtime" "${place[@]}")
[[ -z $spot ]] || request+=(--spot)
describe_request=("${queued[@]}" describe "$name" "${place[@]}" '--format=value(state.state)')
describe_node=("${node[@]}" describe "$name" "${place[@]}" '--format=value(state)')
scp=("${node[@]}" scp "$archive" "$name:eln_jax.tar.gz" "${place[@]}" --worker=all)
ssh=("${node[@]}" ssh "$name" "${place[@]}")
remove=("${queued[@]}" delete "$name" "${place[@]}" --force)
[[ -z $existing ]] || remove=("${node[@]}" delete "$name" "${place[@]}")

# What the hosts run. A lock is held while a training runs; its exit code is left in a file.
line=$(printf '%q ' "${training[@]}")
line=$(printf %q "$line>>train.log 2>&1; echo \$? >exit_code")
start="cd eln_jax && { flock -n train.lock true || "
start+="{ echo 'A training runs already.' >&2; exit 1; }; } && rm -f exit_code &&"
start+=" (nohup flock -o train.lock bash -c $line </dev/null >/dev/null 2>&1 &)"
ask_training=("${ssh[@]}" --worker=0 --command='cd eln_jax 2>/dev/null && if ! flock -n train.lock'\
' true; then echo running; else cat exit_code 2>/dev/null || echo none; fi || echo none')

if [[ -z $dry_run ]]; then
  type -P gcloud >/dev/null || fail "gcloud is not installed, or not on PATH."
  errors=$(mktemp)
  trap 'rm -f "$errors"' EXIT
fi
"$command"
