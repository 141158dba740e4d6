#!/usr/bin/env bash
# Runs a command on every worker of a Cloud TPU VM or pod slice, and again after each preemption.
#
#   scripts/launch_tpu.sh run --name=in64 --zone=us-central2-b --type=v4-32 --spot -- \
#       python scripts/train.py --config=configs/imagenet64.py --workdir=gs://BUCKET/in64
#
#   up      creates the TPU, or takes the one that is there
#   run     up; copies the last commit, installs it, starts the command in tmux; then watches, and
#           brings TPU and command back after a preemption, until the command is done. The same
#           line again continues to watch; interrupting it leaves the TPU at work.
#   status  state of the TPU and of the command on each worker
#   logs    the last lines of a worker's output; with --out=DIR every worker's whole log
#   stop    SIGTERM to the command, which saves and ends; the TPU stays, and costs
#   delete  deletes the TPU with its disk
#
#   --name=NAME  --zone=ZONE           of the TPU; always needed
#   --project=PROJECT                  else gcloud's own
#   --type=TYPE                        v4-8, v5p-32, v6e-16, ...: for up and run
#   --version=VERSION                  of the TPU's software; else the one that suits TYPE
#   --spot                             cheap, taken away at any time
#   --queued                           by a queued resource, which waits for capacity; give it to
#                                      delete too
#   --create_flag=FLAG                 more flags for gcloud's create, such as
#                                      --create_flag=--service-account=ACCOUNT; repeatable
#   --setup=COMMAND                    runs on each worker before the command, such as a mount
#   --copy=FILE                        goes to the command's directory on each worker; repeatable
#   --max_restarts=N                   restarts after crashes in a row (10); not of preemptions,
#                                      and an hour of work begins a new row
#   --poll=SECONDS                     between two looks at the TPU (60)
#   --detach                           run: starts the command and does not watch
#   --worker=N  --lines=N  --out=DIR   logs: of which worker (0), how much (100), or all, to DIR
#   --check                            run: says what is missing (login, zone, bucket, weights, ...)
#                                      and creates nothing; status 2 if something is
#   --dry-run                          prints every command and runs none, as if no TPU were there
#
# The status of `run` is the command's: 0 done, 2 a mistake in it (or here), else it crashed.
# Needs gcloud, logged in, and a key in ssh-agent: ssh-add ~/.ssh/google_compute_engine

set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
# shellcheck source-path=SCRIPTDIR source=launch_common.sh
source "$SCRIPTS/launch_common.sh"

verb='' name='' zone='' project='' type='' version='' setup='' out=''
spot=0 queued=0 detach=0 dry_run=0 check_only=0 patient=0 max_restarts=10 poll=60 worker=0 lines=100
create_flags=() copies=() command=()
remote_script=cfg_jax_run/tpu_worker.sh # on each worker, below its home directory

main() {
  parse "$@"
  check
  place=(--quiet --zone="$zone" ${project:+"--project=$project"}) # quiet: nobody answers questions
  exec 3>&1 # where --dry-run prints, also from within $(...)
  case $verb in
    up) ensure_up ;;
    run) if ((check_only)); then check_all; else run_command; fi ;;
    status) show_status ;;
    logs) show_logs ;;
    stop) on_workers all "bash $remote_script stop" ;;
    delete) delete_tpu ;;
  esac
}

parse() {
  while (($#)); do
    case $1 in
      up | run | status | logs | stop | delete) verb=$1 ;;
      -h | --help) print_help "${BASH_SOURCE[0]}" && exit 0 ;;
      --name=* | --zone=* | --project=* | --type=* | --version=* | --setup=* | --out=* | \
        --max_restarts=* | --poll=* | --worker=* | --lines=*)
        take "$1"
        ;;
      --create_flag=*) create_flags+=("${1#*=}") ;;
      --copy=*) copies+=("${1#*=}") ;;
      --spot) spot=1 ;;
      --queued) queued=1 ;;
      --detach) detach=1 ;;
      --check) check_only=1 ;;
      --dry-run | --dry_run) dry_run=1 ;;
      --) shift && command=("$@") && break ;;
      *) die "unknown argument $1; see launch_tpu.sh --help" ;;
    esac
    shift
  done
}

check() {
  local number file
  [[ -n $verb ]] || die 'say up, run, status, logs, stop or delete; see launch_tpu.sh --help'
  [[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
    die "--name='$name': give small letters, digits and -, such as --name=in64"
  [[ -n $zone ]] || die '--zone is missing, such as --zone=us-central2-b'
  for number in max_restarts poll worker lines; do
    require_natural "$number" "${!number}"
  done
  ((!check_only)) || [[ $verb == run ]] || die "--check goes with run, and $verb would act"
  if [[ $verb == up || $verb == run ]]; then
    [[ -n $type ]] || die '--type is missing, such as --type=v4-32'
    version=${version:-$(software_of "$type")}
    [[ $type != v5e-* ]] || die "gcloud calls --type=$type v5litepod-${type#v5e-}"
    [[ $type != tpu7x* ]] || die "--type=$type: gcloud ends with v6e; use Kubernetes"
    [[ -n $version ]] || die "no software is known for --type=$type; give --version"
  fi
  if [[ $verb == run ]]; then
    ((${#command[@]})) || die 'no command; give it after --, such as -- python scripts/train.py ...'
    for file in ${copies[@]+"${copies[@]}"}; do
      [[ -f $file ]] || die "--copy=$file: no such file"
    done
    note_local_workdir
  fi
  ((dry_run)) || require_program gcloud 'install the Google Cloud CLI, or look with --dry-run'
}

# Google's table of TPU software versions for JAX.
software_of() {
  case $1 in
    v2-* | v3-* | v4-*) printf 'tpu-ubuntu2204-base' ;;
    v5litepod-*) printf 'v2-alpha-tpuv5-lite' ;;
    v5p-*) printf 'v2-alpha-tpuv5' ;;
    v6e-*) printf 'v2-alpha-tpuv6e' ;;
  esac
}

note_local_workdir() {
  local word
  for word in "${command[@]}"; do
    case $word in
      --workdir=gs://* | --root=gs://*) ;;
      --workdir=/* | --root=/*)
        [[ -n $setup ]] ||
          say "note: $word outlives the TPU only on a disk that --setup mounts; use gs://"
        ;;
      --workdir=* | --root=*)
        say "note: $word lies in ~/cfg_jax_run/code on each worker's own disk, where it outlives" \
          'restarts and new code, but is deleted with the TPU; use gs://'
        ;;
    esac
  done
}

# --- --check -----------------------------------------------------------------------------------

check_all() {
  local account bucket
  account=$(gcloud auth list --filter=status:ACTIVE --format='value(account)') || account=''
  if [[ -n $account ]]; then
    found "login of gcloud: $account"
  else
    lacks 'login of gcloud; run: gcloud auth login'
  fi
  project=${project:-$(gcloud config get project)} || project=''
  if [[ -n $project ]]; then
    found "project $project"
  else
    lacks 'project; give --project, or run: gcloud config set project PROJECT'
  fi
  if gcloud compute tpus tpu-vm accelerator-types describe "$type" "${place[@]}" >/dev/null; then
    found "$type in $zone"
  else
    lacks "$type in $zone; gcloud's message stands above; see which there are: gcloud compute tpus" \
      "tpu-vm accelerator-types list --zone=$zone"
  fi
  unknown "quota: https://console.cloud.google.com/iam-admin/quotas?service=tpu.googleapis.com"
  bucket=$(given workdir "${command[@]}")$(given root "${command[@]}")
  if [[ $bucket == gs://* ]]; then
    bucket=gs://$(cut -d / -f 3 <<<"$bucket")
    if gcloud storage buckets describe "$bucket" --format='value(name)' >/dev/null; then
      found "bucket $bucket"
    else
      lacks "bucket $bucket; gcloud's message stands above; make it: gcloud storage buckets create"
    fi
  else
    lacks 'a work directory on gs://, which outlives the TPU; give --workdir or --root'
  fi
  check_what_travels
  end_of_check
}

check_what_travels() {
  local weights data
  if ssh-add -L >/dev/null 2>&1; then
    found 'a key in ssh-agent'
  else
    lacks 'a key in ssh-agent; run: ssh-add ~/.ssh/google_compute_engine'
  fi
  while read -r weights; do
    check_weights "$weights"
  done < <(given_weights "${command[@]}")
  data=$(given config.data.data_dir "${command[@]}")
  if [[ $data == /* && -z $setup ]]; then
    lacks "data set $data: a new TPU has no such directory; mount it with --setup"
  elif [[ -n $data ]]; then
    unknown "data set $data: whether --setup brings it shows on the TPU only"
  fi
}

# What a relative path names must be among what travels; others are the TPU's own.
check_weights() {
  local weights=$1 file
  [[ $weights != /* && $weights != *://* ]] || return 0
  for file in ${copies[@]+"${copies[@]}"}; do
    [[ ${file##*/} != "$weights" ]] || { found "weights $weights" && return; }
  done
  if git -C "$ROOT" cat-file -e "HEAD:$weights" 2>/dev/null; then
    found "weights $weights, committed"
  else
    lacks "weights $weights: they do not travel; give --copy=FILE"
  fi
}

# --- gcloud -----------------------------------------------------------------------------------

# `call COMMAND...` runs or prints it; `ask ANSWER COMMAND...` is for one whose output is read,
# ANSWER being what --dry-run takes it to say.
call() {
  if ((dry_run)); then
    printf '%s\n' "$(quoted "$@")" >&3
  else
    "$@"
  fi
}

ask() {
  local answer=$1
  shift
  if ((dry_run)); then
    printf '%s\n' "$(quoted "$@")" >&3
    printf '%s\n' "$answer"
  else
    "$@"
  fi
}

# Lists rather than describes: a TPU that is not there is then no error, and an error is one.
state_of() {
  local answer=$1 collection=$2 field=$3 table
  table=$(ask "$answer" gcloud compute tpus "$collection" list "${place[@]}" \
    --format="value(name.basename(),$field)") || return
  awk -v name="$name" '$1 == name { print $2 }' <<<"$table"
}

vm_state() { state_of "${1:-}" tpu-vm state; }
request_state() { state_of "${1:-}" queued-resources state.state; }

create_tpu() {
  local flags=(${create_flags[@]+"${create_flags[@]}"})
  if ((spot)); then
    flags+=(--spot)
  fi
  if ((queued)); then
    call gcloud compute tpus queued-resources create "$name" --node-id="$name" "${place[@]}" \
      --accelerator-type="$type" --runtime-version="$version" ${flags[@]+"${flags[@]}"}
  else
    call gcloud compute tpus tpu-vm create "$name" "${place[@]}" \
      --accelerator-type="$type" --version="$version" ${flags[@]+"${flags[@]}"}
  fi
}

delete_tpu() {
  if ((queued)); then
    # --force takes the TPU along.
    call gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force
  else
    call gcloud compute tpus tpu-vm delete "$name" "${place[@]}"
  fi
}

on_workers() {
  call gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker="$1" --command="$2"
}

# --- the TPU ----------------------------------------------------------------------------------

# Returns when the TPU is ready.
ensure_up() {
  local state asked=0
  while true; do
    state=$(tpu_state "$asked") || { failed 'gcloud list' && continue; }
    case $state in
      READY) return ;;
      NONE)
        say "creating $name ($type, $version)"
        create_tpu || { failed "creating $name" && continue; }
        asked=1
        ;;
      FAILED)
        ((patient || !asked)) || die "the queued resource $name failed; gcloud has the reason"
        delete_tpu || failed "deleting $name"
        asked=0
        ;;
      GONE)
        say "$name was taken away, or its repair failed; deleting what is left of it"
        delete_tpu || failed "deleting $name"
        ;;
      STOPPED)
        call gcloud compute tpus tpu-vm start "$name" "${place[@]}" || failed "starting $name"
        ;;
      *) say "waiting for $name: $state" && sleep "$poll" ;;
    esac
  done
}

# Once a command has run, capacity or the network may be gone for hours and nothing is at fault;
# before that, a call that fails is most likely a mistake.
failed() {
  ((patient)) || die "$1 failed; gcloud's message stands above"
  say "$1 failed; trying again in $poll s" && sleep "$poll"
}

# NONE, READY, GONE, FAILED, STOPPED, or a state to wait in. `asked` is the answer under --dry-run.
tpu_state() {
  local asked=$1 state request='' ready='' active=''
  if ((asked)); then
    ready="$name READY" active="$name ACTIVE"
  fi
  if ((queued)); then
    request=$(request_state "$active") || return
    case $request in
      '') printf 'NONE' && return ;;
      FAILED) printf 'FAILED' && return ;;
      SUSPENDED) printf 'GONE' && return ;;
      ACTIVE) ;;
      *) printf '%s' "$request" && return ;;
    esac
  fi
  state=$(vm_state "$ready") || return
  case $state in
    '') if ((queued)); then printf 'missing'; else printf 'NONE'; fi ;;
    PREEMPTED | TERMINATED | UNKNOWN) printf 'GONE' ;; # unknown: after a repair that failed
    STOPPED) if ((spot)); then printf 'GONE'; else printf 'STOPPED'; fi ;; # spot: never restarts
    *) printf '%s' "$state" ;;
  esac
}

# --- the command ------------------------------------------------------------------------------

run_command() {
  note_uncommitted "$ROOT"
  ensure_up
  pack
  launch
  if ((detach)); then
    say "started; 'launch_tpu.sh run' with the same arguments watches"
  else
    watch
  fi
}

# What travels goes as files: no shell between here and there can misread a quote in the command.
pack() {
  parcel=$ROOT/build/launch_tpu/$name
  call mkdir -p "$parcel"
  call git -C "$ROOT" archive --format=tar.gz --output="$parcel/code.tar.gz" HEAD
  call cp "$SCRIPTS/tpu_worker.sh" "$parcel/"
  write_file "$parcel/command.sh" "exec $(quoted "${command[@]}")"
  write_file "$parcel/setup.sh" "$setup"
}

write_file() {
  if ((dry_run)); then
    printf 'printf %s %s >%s\n' "'%s\\n'" "$(quoted "$2")" "$(quoted "$1")" >&3
  else
    printf '%s\n' "$2" >"$1"
  fi
}

# Starts the command on all workers where it does not run yet.
launch() {
  local states mine
  states=$(worker_states '') || { failed "ssh to $name" && return; }
  if [[ $states != *running* ]]; then
    { copy && on_workers all "bash $remote_script start $max_restarts"; } || failed "start on $name"
    return
  fi
  mine=$(cksum <"$parcel/command.sh" | cut -d ' ' -f 1)
  [[ $states == *"running $mine"* ]] || die "another command runs on $name; stop it, or wait"
  say "it runs on $name already"
  if [[ $states == *none* ]]; then
    on_workers all "bash $remote_script resume $max_restarts" || failed "start on $name"
  fi
}

copy() {
  call gcloud compute tpus tpu-vm scp "$parcel/code.tar.gz" "$parcel/command.sh" \
    "$parcel/setup.sh" "$parcel/tpu_worker.sh" "$name:cfg_jax_run/" "${place[@]}" \
    --worker=all || return
  if ((${#copies[@]})); then
    call gcloud compute tpus tpu-vm scp "${copies[@]}" "$name:cfg_jax_run/files/" "${place[@]}" \
      --worker=all
  fi
}

# A line for each worker: none, running CHECKSUM or ended STATUS CHECKSUM. Makes the directory too.
worker_states() {
  local output
  output=$(ask "cfg_jax-state $1" gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" \
    --worker=all --command="mkdir -p cfg_jax_run/files && if [ -e $remote_script ]; then \
bash $remote_script state; fi") || return
  sed -n 's/^cfg_jax-state //p' <<<"$output"
}

# Until the command is done everywhere. A look that fails decides nothing: the next one may succeed.
watch() {
  local states state
  patient=1
  while true; do
    if states=$(worker_states 'ended 0'); then
      case $(verdict "$states") in
        done) say "done; $name is still there and costs: launch_tpu.sh delete" && return ;;
        failed)
          on_workers all "bash $remote_script stop" || true # the others would wait for it
          say "the command ended; see launch_tpu.sh logs. $name is still there and costs"
          exit "$(worst_status "$states")"
          ;;
        lost) say "restarting the command on $name" && launch ;;
        running) ;;
      esac
    fi
    sleep "$poll"
    state=$(tpu_state 1) || continue
    if [[ $state != READY ]]; then
      ensure_up
      launch
    fi
  done
}

verdict() {
  if [[ $(worst_status "$1") != 0 ]]; then
    printf 'failed'
  elif [[ $1 == *none* || -z $1 ]]; then
    printf 'lost'
  elif [[ $1 == *running* ]]; then
    printf 'running'
  else
    printf 'done'
  fi
}

worst_status() {
  awk '$1 == "ended" && $2 > worst { worst = $2 } END { print worst + 0 }' <<<"$1"
}

show_status() {
  local state
  state=$(tpu_state 1) || die "gcloud's message stands above"
  printf '%s: %s\n' "$name" "$state"
  if [[ $state == READY ]]; then
    worker_states 'running'
  fi
}

show_logs() {
  local count index
  if [[ -z $out ]]; then
    on_workers "$worker" "bash $remote_script log $lines"
    return
  fi
  count=$(ask 1 gcloud compute tpus tpu-vm describe "$name" "${place[@]}" \
    --format='value(networkEndpoints.len())') || die "gcloud's message stands above"
  call mkdir -p "$out"
  for ((index = 0; index < count; index++)); do
    call gcloud compute tpus tpu-vm scp "$name:cfg_jax_run/run.log" "$out/worker-$index.log" \
      "${place[@]}" --worker="$index"
  done
}

main "$@"
