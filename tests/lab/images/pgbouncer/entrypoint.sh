#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Writes pgbouncer.ini and userlist.txt from the environment. Passwords go to the userlist only: the ini can be shown.
set -euo pipefail
umask 077
dir=/run/pgbouncer
quoted() { printf '"%s"' "${1//\"/\"\"}"; }
{
  printf '[databases]\n'
  printf '%s = host=%s port=%s dbname=%s\n' "${PGBOUNCER_DATABASE:-$POSTGRESQL_DATABASE}" "$POSTGRESQL_HOST" \
    "${POSTGRESQL_PORT:-5432}" "$POSTGRESQL_DATABASE"
  printf '[pgbouncer]\nlisten_addr = *\nlisten_port = %s\n' "${PGBOUNCER_PORT:-6432}"
  printf 'auth_type = %s\nauth_file = %s/userlist.txt\n' "${PGBOUNCER_AUTH_TYPE:-scram-sha-256}" "$dir"
  printf 'pool_mode = %s\n' "${PGBOUNCER_POOL_MODE:-session}"
  printf 'default_pool_size = %s\n' "${PGBOUNCER_DEFAULT_POOL_SIZE:-20}"
  printf 'max_client_conn = %s\n' "${PGBOUNCER_MAX_CLIENT_CONN:-200}"
  printf 'ignore_startup_parameters = %s\n' "${PGBOUNCER_IGNORE_STARTUP_PARAMETERS:-extra_float_digits}"
  printf 'admin_users = %s\nstats_users = %s\n' "${PGBOUNCER_ADMIN_USERS:-$POSTGRESQL_USERNAME}" "${PGBOUNCER_STATS_USERS:-$POSTGRESQL_USERNAME}"
  printf 'unix_socket_dir = %s\npidfile = %s/pgbouncer.pid\n' "$dir" "$dir"
} > "$dir/pgbouncer.ini"
printf '%s %s\n' "$(quoted "$POSTGRESQL_USERNAME")" "$(quoted "$POSTGRESQL_PASSWORD")" > "$dir/userlist.txt"
# A pooler that was killed leaves this behind, and its successor, which has the same number, would take itself for it.
rm -f "$dir/pgbouncer.pid"
exec "$@"
