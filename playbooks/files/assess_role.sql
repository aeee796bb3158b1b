-- SPDX-License-Identifier: GPL-3.0-or-later
-- Makes the role that phase_info can read with, and nothing else. Run it as a superuser on each of the two databases, as often as you like:
--
--   read -rs ASSESS_PASSWORD && export ASSESS_PASSWORD
--   docker exec -i -e ASSESS_PASSWORD bd-postgres-fhir psql -X -v ON_ERROR_STOP=1 -U postgres -d fhirdb < assess_role.sql
--   docker exec -i -e ASSESS_PASSWORD bd-postgres-audit psql -X -v ON_ERROR_STOP=1 -U postgres -d auditdb < assess_role.sql
--
-- Variables, each as -v name=value: role (assess), hapi_schema (public), audit_schema (audit), searches (on).
-- With searches=off the role may not see the plans of searches, and can read no value that is searched by (names, dates of birth);
-- phase_info then says so. It never gets a resource's body, nor a code or an identifier in clear.
\set QUIET on
\if :{?role} \else \set role assess \endif
\if :{?hapi_schema} \else \set hapi_schema public \endif
\if :{?audit_schema} \else \set audit_schema audit \endif
\if :{?searches} \else \set searches on \endif
\getenv password ASSESS_PASSWORD
\if :{?password} \else \set password '' \endif

-- The password is in a statement: it must be neither in the log nor among the statistics of statements.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SET log_min_duration_statement = -1;
SET pg_stat_statements.track = 'none';
SET password_encryption = 'scram-sha-256';
SELECT :'password' = '' AS no_password \gset
\if :no_password
  DO $$ BEGIN RAISE EXCEPTION 'ASSESS_PASSWORD is not in the environment of psql: nothing was done.'; END $$;
\endif

BEGIN;
SELECT format('CREATE ROLE %I', :'role') WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = :'role') \gexec
SELECT format('ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 3 PASSWORD %L', :'role', :'password')
\gexec
-- Whatever a client asks for, this role begins read-only and is stopped after a while.
SELECT format('ALTER ROLE %I SET %s', :'role', setting)
  FROM unnest(ARRAY['default_transaction_read_only = on', 'statement_timeout = ''60s''', 'lock_timeout = ''5s''',
                    'idle_in_transaction_session_timeout = ''60s''']) setting
\gexec

-- Sessions, statements, sizes and settings of others; no row of any table.
SELECT format('GRANT pg_monitor TO %I', :'role') \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'role') \gexec
SELECT format('GRANT USAGE ON SCHEMA %I TO %I', nspname, :'role') FROM pg_catalog.pg_namespace
 WHERE nspname IN (:'hapi_schema', :'audit_schema') \gexec

-- How many resources there are and when they were written.
CREATE TEMPORARY TABLE wanted (kind text, name text, columns text[]) ON COMMIT DROP;
INSERT INTO wanted VALUES
    ('count', 'hfj_resource', '{res_id}'),
    ('count', 'hfj_res_ver', '{pid,res_id,res_ver,res_updated}'),
    ('search', 'hfj_resource', '{res_id,res_type,res_updated,res_deleted_at,fhir_id,partition_id}'),
    ('search', 'hfj_res_link', '{pid,src_path,src_resource_id,source_resource_type,target_resource_id,target_resource_type,partition_id}'),
    ('search', 'hfj_spidx_token', '{sp_id,res_id,res_type,sp_name,sp_missing,hash_identity,hash_sys,hash_sys_and_value,hash_value,partition_id}'),
    ('search', 'hfj_spidx_string', '{sp_id,res_id,res_type,sp_name,sp_missing,hash_identity,hash_exact,hash_norm_prefix,sp_value_normalized,partition_id}'),
    ('search', 'hfj_spidx_date',
     '{sp_id,res_id,res_type,sp_name,sp_missing,hash_identity,sp_value_low,sp_value_high,sp_value_low_date_ordinal,sp_value_high_date_ordinal,partition_id}'),
    ('search', 'hfj_spidx_number', '{sp_id,res_id,res_type,sp_name,sp_missing,hash_identity,sp_value,partition_id}'),
    ('search', 'hfj_spidx_quantity',
     '{sp_id,res_id,res_type,sp_name,sp_missing,hash_identity,hash_identity_and_units,hash_identity_sys_units,sp_value,partition_id}'),
    ('search', 'hfj_spidx_quantity_nrml',
     '{sp_id,res_id,res_type,sp_name,sp_missing,hash_identity,hash_identity_and_units,hash_identity_sys_units,sp_value,partition_id}'),
    ('search', 'hfj_spidx_uri', '{sp_id,res_id,res_type,sp_name,sp_missing,hash_identity,hash_uri,sp_uri,partition_id}'),
    ('search', 'hfj_res_tag', '{pid,tag_id,res_id,res_type,partition_id}'),
    ('search', 'hfj_res_param_present', '{pid,res_id,hash_presence,sp_present,partition_id}');
-- Who had traffic, and how much of it was rejected. Partitions need no grant of their own.
INSERT INTO wanted VALUES ('audit', 'audit_events', '{client_id,event_time,event_type,outcome}');

-- What an earlier run gave with searches=on.
SELECT format('REVOKE SELECT ON %I.%I FROM %I', n.nspname, c.relname, :'role')
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN wanted w ON w.name = c.relname
 WHERE n.nspname = CASE w.kind WHEN 'audit' THEN :'audit_schema' ELSE :'hapi_schema' END
\gexec
SELECT format('GRANT SELECT (%s) ON %I.%I TO %I', string_agg(DISTINCT quote_ident(a.attname), ', '), n.nspname, c.relname, :'role')
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN wanted w ON w.name = c.relname
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped AND a.attname = ANY (w.columns)
 WHERE n.nspname = CASE w.kind WHEN 'audit' THEN :'audit_schema' ELSE :'hapi_schema' END
   AND (w.kind <> 'search' OR :'searches' <> 'off')
 GROUP BY n.nspname, c.relname
\gexec
COMMIT;
\echo The role :role can read what phase_info needs in :DBNAME
