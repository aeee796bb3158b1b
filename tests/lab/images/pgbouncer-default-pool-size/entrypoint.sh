#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Writes pgbouncer.ini and userlist.txt from the environment. A setting whose variable is not set does not appear in the file.
set -euo pipefail
umask 077
dir=/etc/pgbouncer
quoted() { printf '"%s"' "${1//\"/\"\"}"; }
connstr() { printf "'%s'" "${1//\'/\'\'}"; }
{
  printf '[databases]\n'
  printf '%s = host=%s port=%s' "${DB_NAME:-*}" "$(connstr "$DB_HOST")" "${DB_PORT:-5432}"
  printf ' auth_user=%s\n' "$(connstr "$DB_USER")"
  printf '[pgbouncer]\nlisten_addr = %s\nlisten_port = %s\nunix_socket_dir =\n' "${LISTEN_ADDR:-0.0.0.0}" "$LISTEN_PORT"
  printf 'auth_type = %s\nauth_file = %s/userlist.txt\nadmin_users = %s\n' "${AUTH_TYPE:-scram-sha-256}" "$dir" "${ADMIN_USERS:-$DB_USER}"
  printf 'ignore_startup_parameters = %s\n' "${IGNORE_STARTUP_PARAMETERS:-extra_float_digits}"
  for name in POOL_MODE MAX_CLIENT_CONN DEFAULT_POOL_SIZE MIN_POOL_SIZE RESERVE_POOL_SIZE RESERVE_POOL_TIMEOUT MAX_DB_CONNECTIONS \
    MAX_USER_CONNECTIONS QUERY_WAIT_TIMEOUT SERVER_IDLE_TIMEOUT SERVER_LIFETIME SERVER_LOGIN_RETRY SERVER_TLS_SSLMODE; do
    if [ -n "${!name:-}" ]; then printf '%s = %s\n' "${name,,}" "${!name}"; fi
  done
} > "$dir/pgbouncer.ini"
printf '%s %s\n' "$(quoted "$DB_USER")" "$(quoted "$DB_PASSWORD")" > "$dir/userlist.txt"
# A pooler that was killed leaves this behind, and its successor, which has the same number, would take itself for it.
rm -f "$dir/pgbouncer.pid"
exec "$@"
