#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Initialises an empty PGDATA once, then runs the server. Same variables and rules as the official image.
set -Eeuo pipefail

secret() { # secret NAME DEFAULT: the value of NAME, or of the file that NAME_FILE names
  local name=$1 file="${1}_FILE"
  if [ -n "${!name:-}" ] && [ -n "${!file:-}" ]; then
    echo >&2 "error: both $name and $file are set; set one of them"
    exit 1
  fi
  if [ -n "${!file:-}" ]; then export "$name"="$(< "${!file}")"; else export "$name"="${!name:-$2}"; fi
  unset "$file"
}

case "${1:-postgres}" in -*) set -- postgres "$@" ;; esac
case " $* " in *' --version '* | *' --help '*) exec "$@" ;; esac
if [ "${1:-}" != postgres ]; then
  # Any other command runs as it is, root included: the official image does so too.
  exec "$@"
fi

if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA" && chmod 0700 "$PGDATA"
  find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
  chmod 3777 /var/run/postgresql
  exec gosu postgres "${BASH_SOURCE[0]}" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  secret POSTGRES_PASSWORD ''
  secret POSTGRES_USER postgres
  secret POSTGRES_DB "$POSTGRES_USER"
  method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
  if [ -z "$POSTGRES_PASSWORD" ] && [ "$method" != trust ]; then
    echo >&2 'error: the database is not initialised and POSTGRES_PASSWORD is empty'
    exit 1
  fi
  mkdir -p "$PGDATA" && chmod 0700 "$PGDATA"
  # shellcheck disable=SC2086 # several options in one variable, as the official image takes them
  initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") ${POSTGRES_INITDB_ARGS:-}
  printf '\nhost all all all %s\n' "$method" >> "$PGDATA/pg_hba.conf"
  # Only the socket while the init scripts run: nobody must reach a half-made database.
  pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
  sql=(psql -v ON_ERROR_STOP=1 --no-password --no-psqlrc --username "$POSTGRES_USER")
  if [ "$POSTGRES_DB" != postgres ]; then
    "${sql[@]}" --dbname postgres --set db="$POSTGRES_DB" <<< 'CREATE DATABASE :"db";'
  fi
  for script in /docker-entrypoint-initdb.d/*; do
    case "$script" in
      # shellcheck disable=SC1090 # the init directory is the operator's
      *.sh) if [ -x "$script" ]; then "$script"; else . "$script"; fi ;;
      *.sql) "${sql[@]}" --dbname "$POSTGRES_DB" -f "$script" ;;
      *) [ -e "$script" ] && echo "ignoring $script" ;;
    esac
  done
  pg_ctl -D "$PGDATA" -m fast -w stop
  echo 'init process complete; ready for start up'
fi
exec "$@"
