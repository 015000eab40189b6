#!/bin/sh
# One machine of a training on several, in an indexed Job of Kubernetes.
#
#   rank.sh COMMAND...
#
# The first pod runs the command of the flow run. Its stage train says where it begins
# (segops.operate.ranks); the other pods wait for that, and run their ranks in the same directory, with
# the same code, parameters and data. They end with it where nothing trains on several machines.
set -eu

export SEGOPS_NODE="${JOB_COMPLETION_INDEX:?it comes from a Job with completionMode Indexed}"
export SEGOPS_MAIN="${SEGOPS_MAIN:?NAME:PORT of the first pod}"
all="${SEGOPS_WORKSPACE:?the checkout that all pods mount}/.segops/ranks"
export SEGOPS_RANKS="$all/${JOB_NAME:?the name of the Job}"

if [ "$SEGOPS_NODE" -eq 0 ]; then
  mkdir -p "$SEGOPS_RANKS"
  find "$all" -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} +
  # A shell lets its background commands ignore SIGINT, and so would their children.
  env --default-signal=INT,QUIT "$@" &
  child=$!
  trap 'signalled=yes; kill -TERM "$child" || true' TERM INT
  status=127 # what a shell says when it waited for the command before; such an answer is not kept
  signalled=yes
  while [ -n "$signalled" ]; do # a signal ends the wait, not the command
    signalled=
    waited=0
    wait "$child" || waited=$?
    [ "$waited" -eq 127 ] || status=$waited
  done
  : > "$SEGOPS_RANKS/ended"
  exit "$status"
fi

trap 'exit 143' TERM INT # the first process of a container has no default for them
until [ -e "$SEGOPS_RANKS/train" ]; do
  if [ -e "$SEGOPS_RANKS/ended" ]; then
    echo "The run of the first pod ended without a training on several machines."
    exit 0
  fi
  sleep 1
done
cd "$(cat "$SEGOPS_RANKS/train")"
[ ! -d src/segops ] || export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
exec segops stage train
