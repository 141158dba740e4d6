#!/usr/bin/env bash
# Runs one command on one worker of a TPU until it is done; launch_tpu.sh copies it to every worker.
#
#   bash tpu_worker.sh start MAX_RESTARTS   # in a tmux session; returns at once
#   bash tpu_worker.sh resume MAX_RESTARTS  # start, but only what a reboot has swept away
#   bash tpu_worker.sh state                # none, running CHECKSUM, or ended STATUS CHECKSUM
#   bash tpu_worker.sh stop                 # SIGTERM: the command saves and ends; not restarted
#   bash tpu_worker.sh log LINES            # the end of its output
#
# Next to this file lie code.tar.gz, command.sh, setup.sh (may be empty) and files/ (copied into the
# code). The command runs in code/; what it writes there, such as a relative --workdir, stays until
# the TPU is deleted: new code replaces the old code alone, and a file of it that the command has
# changed is kept as NAME.~1~.
#
# A command that ends with 75 was preempted and starts again, as often as that happens; 0 is done, 2
# a user's mistake; anything else is a crash, restarted MAX_RESTARTS times in a row; an hour of work
# begins a new row.

set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SESSION=cfg_jax
PAUSE=${CFG_JAX_RESTART_PAUSE:-10} # seconds; a crash in a loop should not fill the disk with logs

main() {
  cd "$HERE"
  case ${1:-} in
    start) [[ $(state) == running* ]] || start "$2" ;;
    resume) [[ $(state) != none ]] || start "$2" ;;
    state) printf 'cfg_jax-state %s\n' "$(state)" ;;
    stop) stop ;;
    log) tail -n "$2" run.log ;;
    supervise) supervise "$2" >>run.log 2>&1 ;;
    *) sed -n '2,/^$/{s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" ;;
  esac
}

start() {
  rm -f ended stopping prepared pid
  checksum <command.sh >running
  # Installing belongs into the session too: workers of a pod then install side by side.
  tmux new-session -d -s "$SESSION" bash "$HERE/tpu_worker.sh" supervise "$1"
}

state() {
  if [[ -e ended ]]; then
    printf 'ended %s %s' "$(cat ended)" "$(cat running)"
  elif tmux has-session -t "$SESSION" 2>/dev/null; then
    printf 'running %s' "$(cat running)"
  else
    printf 'none' # never started, or the machine was rebooted
  fi
}

stop() {
  touch stopping
  if [[ -e pid ]]; then
    kill -TERM "$(cat pid)" 2>/dev/null || true
  fi
}

supervise() {
  local max_restarts=$1 crashes=0 status=75 began
  while [[ ! -e stopping ]]; do
    status=0 began=$SECONDS
    attempt || status=$?
    note "ended with status $status"
    case $status in
      0 | 2) break ;;
      75) crashes=0 ;;
      *) crashes=$((SECONDS - began < 3600 ? crashes + 1 : 1)) ;;
    esac
    if ((crashes > max_restarts)); then
      note "no restart after $crashes crashes in a row"
      break
    fi
    sleep "$PAUSE"
  done
  printf '%s\n' "$status" >ended
}

# A package index out of reach counts as a crash: the next attempt may succeed.
attempt() {
  [[ -e prepared ]] || prepare || return 1
  [[ ! -e stopping ]] || return 75 # asked while it was installed
  run_once
}

# The command replaces its shell, so that `pid` is the process that must see SIGTERM.
run_once() {
  local status=0
  note 'starting'
  (cd code && PATH="$HERE/venv/bin:$PATH" exec bash ../command.sh) &
  printf '%s\n' "$!" >pid
  [[ ! -e stopping ]] || kill -TERM "$!" || true # `stop` may have come before there was a number
  wait "$!" || status=$?
  rm -f pid
  return "$status"
}

prepare() {
  note 'setup and install'
  bash setup.sh && unpack && install && touch prepared
}

unpack() {
  mkdir -p code files
  [[ $(checksum <code.tar.gz) == "$(cat unpacked 2>/dev/null)" ]] || replace_code || return
  cp -R files/. code/
}

# A module that is gone must not be imported from the code before; what was changed since is data.
replace_code() {
  local file before=()
  rm -f unpacked
  [[ ! -e shipped ]] || mapfile -t before <shipped
  for file in ${before[@]+"${before[@]}"}; do
    [[ -d code/$file || code/$file -nt shipped ]] || rm -f "code/$file"
  done
  tar -xzf code.tar.gz -C code --touch --backup=numbered && tar -tzf code.tar.gz >shipped &&
    checksum <code.tar.gz >unpacked
}

install() {
  [[ -x venv/bin/python ]] || make_venv || return
  venv/bin/python -m pip install --quiet --disable-pip-version-check -e 'code[tpu,gcs]'
}

# TPU images come with Ubuntu 22.04 and its Python 3.10, which JAX has left behind.
make_venv() {
  local python
  for python in python3.13 python3.12 python3.11 python3; do
    if "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$python" -m venv venv
      return
    fi
  done
  python3 -m pip install --quiet --user uv && python3 -m uv venv --quiet --seed --python 3.12 venv
}

checksum() {
  cksum | cut -d ' ' -f 1
}

note() {
  printf '%s tpu_worker: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"
}

# On one line: bash must not read on in a file that a later copy has replaced.
main "$@"; exit
