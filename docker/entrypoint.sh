#!/bin/sh
# Reads secrets into the environment of the command, which takes this process's place.
#
# NAME_FILE=/run/secrets/FILE gives the command NAME. Neither `docker inspect` nor a list of processes
# shows the value. SEGOPS_SECRETS names another directory.
set -eu

secrets="${SEGOPS_SECRETS:-/run/secrets}"
for name in $(env | sed -n "s|^\([A-Z][A-Z0-9_]*\)_FILE=$secrets/.*|\1|p"); do
  eval "file=\$${name}_FILE"
  if [ ! -r "$file" ]; then
    echo "$file: not readable by user $(id -u), though ${name}_FILE names it. docker/prepare.sh makes it." >&2
    exit 1
  fi
  value="$(cat "$file")"
  export "$name=$value"
  unset "${name}_FILE"
done
exec "$@"
