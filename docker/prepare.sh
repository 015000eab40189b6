#!/bin/sh
# Makes what docker/compose.yaml mounts: passwords in secrets/, one file each, and directories in state/.
#
#   docker/prepare.sh [DIRECTORY]        (docker/ without one)
#
# Only you can read them. Files that are there stay as they are. Keep a copy of secrets/ elsewhere:
# databases that are restored have these passwords.
set -eu
umask 077

base="${1:-$(dirname "$0")}"
directory="$base/secrets"
mkdir -p "$directory" "$base/state/postgres" "$base/state/storage" "$base/state/tls" \
  "$base/state/backups" "$base/state/empty" "$base/state/exports"

random() {
  head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'
}

keep() { # NAME: writes standard input, unless the file is there
  content="$(cat)"
  [ -e "$directory/$1" ] || {
    printf '%s' "$content" > "$directory/.$1.new" # Kubernetes would hand a line end over
    mv "$directory/.$1.new" "$directory/$1"
  }
}

random | keep postgres_password
random | keep s3_secret
random | keep mlflow_admin_password
random | keep mlflow_flask_secret
random | keep serve_keys
printf 'segops:%s\n' "$(random)" | keep prefect_auth

password="$(cat "$directory/postgres_password")"
printf 'postgresql://segops:%s@postgres:5432/mlflow\n' "$password" | keep mlflow_database
printf 'postgresql+asyncpg://segops:%s@postgres:5432/prefect\n' "$password" | keep prefect_database

keep mlflow_auth.ini <<END
[mlflow]
default_permission = READ
auth_cache_ttl_seconds = 60
database_uri = postgresql://segops:$password@postgres:5432/mlflow_auth
admin_username = admin
admin_password = $(cat "$directory/mlflow_admin_password")
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END

keep s3.json <<END
{
  "identities": [
    {
      "name": "segops",
      "credentials": [{"accessKey": "segops", "secretKey": "$(cat "$directory/s3_secret")"}],
      "actions": ["Admin", "Read", "Write", "List", "Tagging"]
    },
    {
      "name": "people",
      "credentials": [{"accessKey": "people", "secretKey": "$(random)"}],
      "actions": ["Read:segops-data", "Write:segops-data", "List:segops-data", "Tagging:segops-data"]
    }
  ]
}
END
