#!/bin/sh
# One machine of a training on several, in an indexed Job of Kubernetes.
#
#   rank.sh COMMAND...
#
# The first pod runs the command of the flow run. The others prepare the same data in a clone of their
# own, because one checkout runs one pipeline at a time, and then run their ranks.
set -eu

export SEGOPS_NODE="${JOB_COMPLETION_INDEX:?it comes from a Job with completionMode Indexed}"
export SEGOPS_MAIN="${SEGOPS_MAIN:?NAME:PORT of the first pod}"
workspace="${SEGOPS_WORKSPACE:?the checkout that all pods mount}"

[ "$SEGOPS_NODE" -ne 0 ] || exec "$@"

clone="${TMPDIR:-/tmp}/rank-$SEGOPS_NODE"
git clone --quiet --shared "$workspace" "$clone"
cd "$clone"
cp "$workspace/params.yaml" .
dvc cache dir --quiet --local "$workspace/.dvc/cache"
dvc checkout --quiet data/voc.dvc
dvc repro augment
exec segops stage train
