#!/usr/bin/env bash
# The writer may only insert, the maintainer may only run the maintenance function, the owner runs the migrations.
set -euo pipefail
psql -v ON_ERROR_STOP=1 --no-psqlrc -U "${POSTGRES_USER:-postgres}" -d "$POSTGRES_DB" \
  -v owner_password="$AUDIT_DB_OWNER_PASSWORD" -v writer_password="$AUDIT_DB_WRITER_PASSWORD" \
  -v maintainer_password="$AUDIT_DB_MAINTAINER_PASSWORD" <<'SQL'
CREATE ROLE audit_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE audit_writer_login LOGIN PASSWORD :'writer_password';
CREATE ROLE audit_maintainer_login LOGIN PASSWORD :'maintainer_password';
ALTER DATABASE :"DBNAME" OWNER TO audit_owner;
ALTER SCHEMA public OWNER TO audit_owner;
SQL
