#!/usr/bin/env bash
# Starts an edited scripts/jobset.yaml on Kubernetes, or says first what it would lack there.
#
#   scripts/launch_jobset.sh --check
#   scripts/launch_jobset.sh
#
#   --file=FILE                        the manifest (scripts/jobset.yaml)
#   --context=NAME  --namespace=NAME   else kubectl's own
#   --check                            says what is missing (login, JobSet, volumes, nodes, ...) and
#                                      creates nothing; status 2 if something is
#   --dry-run                          prints the kubectl command, no more
#
# The JobSet starts itself again after preemptions and crashes; docs/launching.md says when. To end
# it: kubectl delete --filename=FILE. One that has ended starts again once it is deleted.

set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=launch_common.sh
source "$SCRIPTS/launch_common.sh"

file=$SCRIPTS/jobset.yaml context='' namespace='' dry_run=0 check_only=0 words=()

main() {
  local apply
  parse "$@"
  [[ -f $file ]] || die "--file=$file: no such file"
  ((dry_run)) || require_program kubectl 'install it, or look with --dry-run'
  at=(${context:+"--context=$context"} ${namespace:+"--namespace=$namespace"})
  apply=(kubectl apply --filename="$file" ${at[@]+"${at[@]}"})
  if ((check_only)); then
    check_all
  elif ((dry_run)); then
    printf '%s\n' "$(quoted "${apply[@]}")"
  else
    [[ $(values image) != REGISTRY/* ]] || die "$file: edit its lines marked EDIT, then --check"
    refuse_lost_workdir
    "${apply[@]}"
  fi
}

parse() {
  while (($#)); do
    case $1 in
      -h | --help) print_help "${BASH_SOURCE[0]}" && exit 0 ;;
      --file=* | --context=* | --namespace=*) take "$1" ;;
      --check) check_only=1 ;;
      --dry-run | --dry_run) dry_run=1 ;;
      *) die "unknown argument $1; see launch_jobset.sh --help" ;;
    esac
    shift
  done
}

# What the manifest says of a key, a line each time; enough of YAML for how jobset.yaml is written.
values() {
  sed -n "s/#.*//; s|.*[ {]$1: *\"\{0,1\}\([^,}\" ]*\).*|\1|p" "$file"
}

ask() {
  kubectl "$@" ${at[@]+"${at[@]}"}
}

check_all() {
  local user
  check_edits
  check_paths
  user=$(ask auth whoami --output='jsonpath={.status.userInfo.username}') || user=''
  if [[ -n $user ]]; then
    found "login of kubectl: $user"
    check_cluster
  else
    lacks "login of kubectl; its message stands above; on GKE run: gcloud container clusters" \
      'get-credentials CLUSTER --location=LOCATION'
  fi
  end_of_check
}

check_edits() {
  local image processes
  image=$(values image)
  if [[ $image == REGISTRY/* ]]; then
    lacks "image $image: it is a placeholder; edit the lines marked EDIT of $file"
  else
    unknown "image $image: whether the nodes can pull it shows when a pod starts"
  fi
  processes=$(sed -n '/name: NUM_PROCESSES/{n;s/[^0-9]*\([0-9]*\).*/\1/p;}' "$file")
  if [[ $(values completions) == "$processes" && $(values parallelism) == "$processes" ]]; then
    found "$processes pods"
  else
    lacks "a number of pods: completions, parallelism and NUM_PROCESSES of $file differ"
  fi
}

# What the command names must lie in a volume; what the volume holds, only a pod can see.
check_paths() {
  local weights
  read_command
  check_mounted 'data set' "$(given config.data.data_dir ${words[@]+"${words[@]}"})"
  while read -r weights; do
    check_mounted weights "$weights"
  done < <(given_weights ${words[@]+"${words[@]}"})
  check_mounted 'work directory' "$(work_directory)"
}

read_command() {
  read -r -d '' -a words < <(sed -n 's/#.*//; s/^ *\(--.*\)/\1/p' "$file") || true
}

work_directory() {
  given workdir ${words[@]+"${words[@]}"} && given root ${words[@]+"${words[@]}"}
}

# Every restart would begin anew: what lies in a pod alone goes with it.
refuse_lost_workdir() {
  local path
  read_command
  path=$(work_directory)
  [[ -z $path || $path == *://* || -n $(mount_of "$path") ]] ||
    die "$file: the work directory $path is lost with the pod, as no volume is mounted there;" \
      "give an absolute path on a volume, or gs://"
}

# The volume's place that holds a path; a relative one lies in the image.
mount_of() {
  local mount
  while read -r mount; do
    if [[ $1/ == "$mount"/* ]]; then
      printf '%s' "$mount"
      return
    fi
  done < <(values mountPath)
}

check_mounted() {
  local what=$1 path=$2 mount
  [[ -n $path ]] || return 0
  if [[ $path == *://* ]]; then
    unknown "$what $path: whether the pods may use it shows in a pod only"
    return
  fi
  mount=$(mount_of "$path")
  if [[ -n $mount ]]; then
    unknown "$what $path: on the volume at $mount; whether it is there shows in a pod only"
  else
    lacks "$what $path: no volume is mounted there"
  fi
}

check_cluster() {
  local claim
  for claim in $(values claimName); do
    check_claim "$claim"
  done
  check_nodes
  unknown "quota: kubectl describe resourcequota, and your cloud's own"
  if ! ask explain jobsets.spec.failurePolicy.rules.onJobFailureMessagePatterns \
    --api-version=jobset.x-k8s.io/v1alpha2 >/dev/null; then
    lacks 'JobSet 0.10 or later; see https://jobset.sigs.k8s.io/docs/installation'
    return
  fi
  found 'JobSet 0.10 or later'
  # Permission, quota of objects and every field; nothing is stored.
  if ask apply --dry-run=server --filename="$file" >/dev/null; then
    found "the cluster takes $file"
  else
    lacks "a manifest that the cluster takes; its message on $file stands above"
  fi
}

check_claim() {
  local phase modes
  phase=$(ask get persistentvolumeclaim "$1" \
    --output='jsonpath={.status.phase} {.status.accessModes[*]}') || phase=''
  modes=${phase#* } phase=${phase%% *}
  case $phase in
    Bound) found "volume claim $1, $modes" ;;
    Pending) unknown "volume claim $1 waits, maybe for the first pod: kubectl describe pvc $1" ;;
    *) lacks "volume claim $1; kubectl's message stands above; see docs/launching.md" ;;
  esac
}

# A cluster that grows by itself may have no such node yet, so that this is never "missing".
check_nodes() {
  local resource each wanted have=0 number numbers
  for resource in nvidia.com/gpu google.com/tpu; do
    each=$(values "$resource")
    [[ -z $each ]] || break
  done
  [[ -n $each ]] || { unknown 'accelerators: the manifest asks for none' && return; }
  wanted=$(values completions)
  numbers=$(ask get nodes --output="jsonpath={.items[*].status.allocatable.${resource//./\\.}}") ||
    numbers=''
  for number in $numbers; do
    ((number < each)) || have=$((have + 1))
  done
  if ((have >= wanted)); then
    found "$have nodes with $each $resource, free or not"
  else
    unknown "nodes with $each $resource: $have of $wanted; a node pool that grows may add the rest"
  fi
}

main "$@"
