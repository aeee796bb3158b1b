#!/usr/bin/env bash
# The application's role owns its database; passwords are passed as psql variables, never spliced into SQL.
set -euo pipefail
psql -v ON_ERROR_STOP=1 --no-psqlrc -U "${POSTGRES_USER:-postgres}" -d "$POSTGRES_DB" -v app_password="$FHIR_DB_APP_PASSWORD" <<'SQL'
CREATE ROLE hapi_app LOGIN PASSWORD :'app_password';
ALTER DATABASE :"DBNAME" OWNER TO hapi_app;
ALTER SCHEMA public OWNER TO hapi_app;
SQL
