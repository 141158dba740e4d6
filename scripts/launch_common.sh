# What the launch_*.sh share; sourced, never run. Bash 3.2 will do (macOS).
# shellcheck shell=bash

# Ends with one line on standard error and status 2, as every command of this repository does.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

say() {
  printf '%s\n' "$*" >&2
}

# The arguments as words that any POSIX shell reads back unchanged, on one line.
quoted() {
  local word separator=''
  for word in "$@"; do
    printf '%s' "$separator"
    if [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
      printf '%s' "$word"
    else
      printf "'%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")"
    fi
    separator=' '
  done
}

# The comment at the head of a script is its help.
print_help() {
  sed -n '2,/^$/{s/^# \{0,1\}//;p;}' "$1"
}

# --NAME=VALUE becomes the variable NAME.
take() {
  local option=${1%%=*}
  printf -v "${option#--}" '%s' "${1#*=}"
}

require_program() {
  command -v "$1" >/dev/null || die "$1 is not on PATH; $2"
}

require_natural() {
  [[ $2 =~ ^(0|[1-9][0-9]*)$ ]] || die "--$1=$2 is not a whole number of at least 0"
}

# What lies uncommitted in the checkout does not travel; say so before hours are spent on old code.
note_uncommitted() {
  if [[ -n $(git -C "$1" status --porcelain 2>/dev/null) ]]; then
    say 'note: uncommitted changes are not copied; the workers run the last commit'
  fi
}

# --- --check: what is missing before anything costs money ----------------------------------------

lacking=0

found() {
  printf 'ok       %s\n' "$*"
}

lacks() {
  printf 'missing  %s\n' "$*"
  lacking=1
}

unknown() {
  printf 'look     %s\n' "$*"
}

# Whether there is a file or directory of this name, which is what an option of the command says.
check_path() {
  if [[ $2 == *://* ]]; then
    unknown "$1 $2"
  elif [[ -e ${2/#\~\//$HOME/} ]]; then
    found "$1 $2"
  else
    lacks "$1 $2: it is not here; $3"
  fi
}

# The value of --NAME=VALUE among the words after it; nothing where it is not given.
given() {
  local option=$1 word
  shift
  for word in "$@"; do
    case $word in
      "--$option="*) printf '%s' "${word#*=}" && return ;;
    esac
  done
}

# Weights that the command's words name, one a line: of instruments, of a start, of networks. What a
# command may also train, as a directory, counts where it is a file.
given_weights() {
  local option path
  for option in inception googlenet config.sweep.inception config.train.start_from \
    guidance_network config.guidance.network guide judge decoder config.latent.decoder; do
    path=$(given "$option" "$@")
    [[ -z $path ]] || printf '%s\n' "$path"
  done
  for option in model workdir classifier; do
    path=$(given "$option" "$@")
    case $path in
      *.safetensors | *.pt | *.pth | *.pkl | *.bin) printf '%s\n' "$path" ;;
    esac
  done
}

end_of_check() {
  ((!lacking)) || die 'something is missing, see above; nothing was started'
  say 'nothing is missing that can be seen from here'
}
