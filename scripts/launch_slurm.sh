#!/usr/bin/env bash
# Submits a command to Slurm as one job that continues after preemption and beyond its time limit.
#
#   scripts/launch_slurm.sh --job_name=in64 --nodes=4 --gpus_per_node=8 --time=24:00:00 -- \
#       python scripts/train.py --config=configs/imagenet64.py --workdir=/scratch/in64
#
#   --job_name=NAME                    needed; names the files in --logs too
#   --nodes=N                          1
#   --gpus_per_node=N                  0
#   --tasks_per_node=N                 processes; else one for each GPU, because under Slurm JAX
#                                      gives every process one GPU; without GPUs 1
#   --cpus_per_task=N                  for the workers that read data; else the cluster's default
#   --time=LIMIT  --partition=NAME  --account=NAME  --qos=NAME
#   --sbatch=FLAG                      more of sbatch's flags, such as --sbatch=--exclusive or
#                                      --sbatch=--mem=64G; repeatable
#   --setup=COMMAND                    before the command, such as 'module load cuda'
#   --warn_seconds=N                   SIGTERM comes so long before the time limit (120)
#   --max_restarts=N                   restarts after crashes in a row (10); not of preemptions,
#                                      and an hour of work begins a new row
#   --logs=DIR                         of the batch script and all output (runs/slurm)
#   --check                            says what is missing (partition, data set, weights, ...) and
#                                      submits nothing; status 2 if something is
#   --dry-run                          prints the batch script and the sbatch command, no more
#
# The command runs in this checkout, with .venv/bin first on PATH where there is one. On SIGTERM it
# saves and ends with 75, and the job is queued again under the same number. 0 is done, 2 a mistake;
# anything else is a crash, queued again --max_restarts times. scancel ends the job for good.

set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
# shellcheck source-path=SCRIPTDIR source=launch_common.sh
source "$SCRIPTS/launch_common.sh"

job_name='' nodes=1 gpus_per_node=0 tasks_per_node='' cpus_per_task='' time='' partition=''
account='' qos='' setup='' warn_seconds=120 max_restarts=10 logs=runs/slurm dry_run=0 check_only=0
sbatch_flags=() command=()

main() {
  parse "$@"
  check
  if ((check_only)); then
    check_all
  elif ((dry_run)); then
    batch_script
    printf '\n# %s:\n' "the script above goes to $script, then"
    printf '%s\n' "$(quoted sbatch "$script")"
  else
    mkdir -p "$logs"
    batch_script >"$script"
    sbatch "$script"
  fi
}

parse() {
  while (($#)); do
    case $1 in
      -h | --help) print_help "${BASH_SOURCE[0]}" && exit 0 ;;
      --job_name=* | --nodes=* | --gpus_per_node=* | --tasks_per_node=* | --cpus_per_task=* | \
        --time=* | --partition=* | --account=* | --qos=* | --setup=* | --warn_seconds=* | \
        --max_restarts=* | --logs=*)
        take "$1"
        ;;
      --sbatch=*) sbatch_flags+=("${1#*=}") ;;
      --check) check_only=1 ;;
      --dry-run | --dry_run) dry_run=1 ;;
      --) shift && command=("$@") && break ;;
      *) die "unknown argument $1; see launch_slurm.sh --help" ;;
    esac
    shift
  done
}

check() {
  local number
  [[ $job_name =~ ^[A-Za-z0-9_.-]+$ ]] ||
    die "--job_name='$job_name': give letters, digits, . _ -, such as --job_name=in64"
  for number in nodes gpus_per_node warn_seconds max_restarts; do
    require_natural "$number" "${!number}"
  done
  if ((gpus_per_node)); then
    tasks_per_node=${tasks_per_node:-$gpus_per_node}
  fi
  tasks_per_node=${tasks_per_node:-1}
  require_natural tasks_per_node "$tasks_per_node"
  [[ -z $cpus_per_task ]] || require_natural cpus_per_task "$cpus_per_task"
  ((warn_seconds <= 65535)) || die "--warn_seconds=$warn_seconds: Slurm takes at most 65535"
  ((nodes && tasks_per_node)) || die '--nodes and --tasks_per_node must be at least 1'
  ((${#command[@]})) || die 'no command; give it after --, such as -- python scripts/train.py ...'
  ((dry_run)) || require_program sbatch 'run this on a login node of a Slurm cluster'
  [[ $logs == /* ]] || logs=$ROOT/$logs
  script=$logs/$job_name.sbatch
}

# The compute nodes share this file system, so what is here is there. Relative paths are the
# command's own, which runs in the checkout.
check_all() {
  local place data weights
  cd "$ROOT"
  if [[ -z $partition ]]; then
    unknown 'partition: none is given, so the cluster takes its default'
  elif [[ -n $(sinfo --noheader --partition="$partition" --format=%P) ]]; then
    found "partition $partition"
  else
    lacks "partition $partition; see which there are: sinfo"
  fi
  if [[ -x $ROOT/.venv/bin/python ]]; then
    found "$ROOT/.venv"
  else
    lacks "$ROOT/.venv; run: python3 -m venv .venv && .venv/bin/pip install -e '.[cuda]'"
  fi
  data=$(given config.data.data_dir "${command[@]}")
  place=$(given workdir "${command[@]}")$(given root "${command[@]}")
  [[ -z $data ]] || check_path 'data set' "$data" 'see docs/data.md'
  while read -r weights; do
    check_path weights "$weights" 'see docs/launching.md'
  done < <(given_weights "${command[@]}")
  if [[ $place == *://* ]]; then
    unknown "work directory $place"
  elif [[ -n $place ]]; then
    while [[ ! -e $place ]]; do place=$(dirname "$place"); done
    if [[ -w $place ]]; then found "may write in $place"; else lacks "may not write in $place"; fi
  fi
  end_of_check
}

batch_script() {
  directives
  printf '\nset -uo pipefail\ncd %s\n' "$(quoted "$ROOT")"
  if [[ -d $ROOT/.venv/bin ]]; then
    printf "export PATH=%s:\"\$PATH\"\n" "$(quoted "$ROOT/.venv/bin")"
  fi
  [[ -z $setup ]] || printf '%s\n' "$setup"
  printf 'max_restarts=%s\n' "$max_restarts"
  printf "crashes_file=%s-\$SLURM_JOB_ID.crashes\n" "$(quoted "$logs/$job_name")"
  task_flags
  printf 'srun %s %s &\n' "${flags[*]}" "$(quoted "${command[@]}")"
  after_the_command
}

directives() {
  local line
  printf '#!/usr/bin/env bash\n'
  for line in "--job-name=$job_name" "--nodes=$nodes" "--ntasks-per-node=$tasks_per_node" \
    ${cpus_per_task:+"--cpus-per-task=$cpus_per_task"} ${time:+"--time=$time"} \
    ${partition:+"--partition=$partition"} ${account:+"--account=$account"} \
    ${qos:+"--qos=$qos"} "--output=$logs/$job_name-%j.log" --open-mode=append --requeue \
    "--signal=TERM@$warn_seconds" ${sbatch_flags[@]+"${sbatch_flags[@]}"}; do
    printf '#SBATCH %s\n' "$line"
  done
  if ((gpus_per_node)); then
    printf '#SBATCH --gpus-per-node=%s\n' "$gpus_per_node"
  fi
}

# A task that has saved may end before the others have: they get time, and are not killed for it.
task_flags() {
  flags=(--kill-on-bad-exit=0 "--wait=$warn_seconds" --open-mode=append
    "--output=$(quoted "$logs/$job_name")-%j-%t.log")
  if [[ -n $cpus_per_task ]]; then
    flags+=("--cpus-per-task=$cpus_per_task") # not every version's srun takes it from sbatch
  fi
}

# The part of the batch script that is the same in every job.
after_the_command() {
  cat <<'END'
step=$!
# Slurm signals the tasks itself. This shell only has to outlive SIGTERM, and to wait again after
# it, until srun says how the tasks ended.
ending=0
trap 'ending=1 signalled=1' TERM
while true; do
  signalled=0
  wait "$step"
  status=$?
  ((signalled && status > 128)) || break
done
# The warning before the time limit and a preemption's go to the tasks alone. What reaches this
# shell as well is the limit itself, a preemption without grace, or else scancel.
cancelled() {
  local job
  ((ending)) || return
  job=$(scontrol show job "$SLURM_JOB_ID")
  [[ $job != *Reason=TimeLimit* ]] || return
  # Where the cluster preempts nothing, PreemptTime is not shown.
  [[ $job != *PreemptTime=* || $job == *PreemptTime=None* ]]
}
echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) launch_slurm: ended with status $status"
if cancelled; then
  echo 'launch_slurm: cancelled'
  exit "$status"
fi
case $status in
  0 | 2) exit "$status" ;;
  75) rm -f "$crashes_file" ;;
  *)
    before=$(cat "$crashes_file" 2>/dev/null || echo 0)
    crashes=$((SECONDS < 3600 ? before + 1 : 1))
    if ((crashes > max_restarts)); then
      echo "launch_slurm: no restart after $crashes crashes in a row"
      exit "$status"
    fi
    echo "$crashes" >"$crashes_file"
    ;;
esac
scontrol requeue "$SLURM_JOB_ID"
exit "$status"
END
}

main "$@"
