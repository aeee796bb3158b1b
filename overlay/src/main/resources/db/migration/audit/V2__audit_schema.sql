-- SPDX-License-Identifier: GPL-3.0-or-later
-- The audit trail: two tables in monthly partitions.

-- The database's own set-up makes these roles with their passwords. Here they are made without a
-- login if they are missing, so that the grants below hold on any database.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['audit_writer_login', 'audit_maintainer_login'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
END
$$;

CREATE SCHEMA audit;

-- The partition key has to be part of a primary key.
CREATE TABLE audit.audit_events (
    id            bigint GENERATED ALWAYS AS IDENTITY,
    event_time    timestamptz NOT NULL,
    event_type    text        NOT NULL CHECK (event_type IN ('OPERATION', 'VALIDATION_FAILURE')),
    outcome       text        NOT NULL CHECK (outcome IN ('ACCEPTED', 'REJECTED', 'ERROR')),
    client_id     text,
    request_id    text,
    method        text        NOT NULL,
    path          text        NOT NULL,
    status        integer     NOT NULL,
    resource_type text,
    duration_ms   bigint      NOT NULL,
    replica       text        NOT NULL,
    PRIMARY KEY (id, event_time)
) PARTITION BY RANGE (event_time);

CREATE INDEX audit_events_client_time_idx ON audit.audit_events (client_id, event_time);

CREATE TABLE audit.fhir_rejected_submissions (
    id            bigint GENERATED ALWAYS AS IDENTITY,
    event_time    timestamptz NOT NULL,
    client_id     text,
    request_id    text,
    method        text        NOT NULL,
    path          text        NOT NULL,
    status        integer     NOT NULL,
    resource_type text,
    detail        text,
    replica       text        NOT NULL,
    PRIMARY KEY (id, event_time)
) PARTITION BY RANGE (event_time);

CREATE INDEX fhir_rejected_submissions_client_time_idx
    ON audit.fhir_rejected_submissions (client_id, event_time);

-- 2025-01 to 2027-12. Bounds are written with their offset: a bare date would be read in the time
-- zone of the session, and months made in two zones overlap or leave a hole.
DO $$
DECLARE
    parent text;
    month  date;
BEGIN
    FOREACH parent IN ARRAY ARRAY['audit_events', 'fhir_rejected_submissions'] LOOP
        FOR n IN 0..35 LOOP
            month := (date '2025-01-01' + make_interval(months => n))::date;
            EXECUTE format(
                'CREATE TABLE audit.%I PARTITION OF audit.%I FOR VALUES FROM (%L) TO (%L)',
                parent || to_char(month, '_YYYY_MM'),
                parent,
                to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00',
                to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00');
        END LOOP;
    END LOOP;
END
$$;

-- Runs with its owner's rights, because only the owner of a table may add a partition to it; the
-- fixed search path keeps a caller from slipping its own objects in.
CREATE FUNCTION audit.create_next_month_partitions() RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
AS $$
DECLARE
    parent text;
    month  date := (date_trunc('month', now()) + interval '1 month')::date;
BEGIN
    FOREACH parent IN ARRAY ARRAY['audit_events', 'fhir_rejected_submissions'] LOOP
        EXECUTE format(
            'CREATE TABLE IF NOT EXISTS audit.%I PARTITION OF audit.%I FOR VALUES FROM (%L) TO (%L)',
            parent || to_char(month, '_YYYY_MM'),
            parent,
            to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00',
            to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00');
    END LOOP;
END
$$;

REVOKE ALL ON FUNCTION audit.create_next_month_partitions() FROM PUBLIC;

-- The server adds to the trail and can neither read nor change it. Rows go in through the parent,
-- so partitions need no grants of their own, now or later.
GRANT USAGE ON SCHEMA audit TO audit_writer_login, audit_maintainer_login;
GRANT INSERT ON audit.audit_events, audit.fhir_rejected_submissions TO audit_writer_login;
GRANT EXECUTE ON FUNCTION audit.create_next_month_partitions() TO audit_maintainer_login;
