-- SPDX-License-Identifier: GPL-3.0-or-later
-- Fills HAPI's tables (hapi_7_2_schema.sql): psql -v count=4000.
-- :count resources of the last 90 days: few types make up most; half of them have one version, some many; each has tokens, strings, dates and
-- quantities as its type has, two in three a link to an earlier one, one in five a tag. Ids have gaps, as HAPI's blocks of 50 leave them.
SET synchronous_commit = off;
INSERT INTO hfj_resource (res_id, fhir_id, has_tags, res_published, res_updated, res_type, res_ver, sp_has_links, sp_index_status, sp_cmpstr_uniq_present,
                          sp_coords_present, sp_cmptoks_present, sp_date_present, sp_number_present, sp_quantity_nrml_present, sp_quantity_present,
                          sp_string_present, sp_token_present, sp_uri_present)
SELECT i + i / 20, (i + i / 20)::text, i % 5 = 0, t, t,
       CASE WHEN i % 20 < 10 THEN 'Observation' WHEN i % 20 < 14 THEN 'Encounter' WHEN i % 20 < 16 THEN 'Condition' WHEN i % 20 < 19 THEN 'Patient'
            ELSE 'Practitioner' END,
       CASE WHEN i % 10 = 0 THEN 4 WHEN i % 2 = 0 THEN 2 ELSE 1 END, i % 3 > 0, 1, false, false, false, true, false, false, i % 20 < 10, true, true, false
  FROM generate_series(1, :count) i,
       LATERAL (SELECT clock_timestamp()::timestamp - interval '90 days' * (1 - i::float8 / :count) AS t) x;
INSERT INTO hfj_tag_def (tag_id, tag_code, tag_system, tag_type, tag_user_selected)
SELECT n, 'code-' || n, 'http://example.org/tags', 0, false FROM generate_series(1, 3) n;
INSERT INTO hfj_res_ver (pid, has_tags, res_published, res_updated, res_encoding, res_id, res_text_vc, res_type, res_ver)
SELECT row_number() OVER (), r.has_tags, r.res_published, r.res_updated, 'JSON', r.res_id, repeat(md5(r.res_id::text), 12), r.res_type, v
  FROM hfj_resource r, generate_series(1, r.res_ver) v;
INSERT INTO hfj_res_ver_prov (res_ver_pid, request_id, source_uri, res_pid)
SELECT pid, substr(md5(pid::text), 1, 16), 'http://example.org/source', res_id FROM hfj_res_ver WHERE pid % 3 = 0;
INSERT INTO hfj_res_tag (pid, res_id, res_type, tag_id) SELECT res_id, res_id, res_type, 1 + res_id % 3 FROM hfj_resource WHERE has_tags;
INSERT INTO hfj_history_tag (pid, tag_id, res_ver_pid, res_id, res_type)
SELECT pid, 1 + res_id % 3, pid, res_id, res_type FROM hfj_res_ver WHERE has_tags;
INSERT INTO hfj_spidx_token (sp_id, sp_missing, sp_name, res_id, res_type, hash_identity, hash_sys, hash_sys_and_value, hash_value, sp_system, sp_value)
SELECT row_number() OVER (), false, 'p' || n, res_id, res_type, hashtext('i' || n), hashtext('s' || n), hashtextextended(n || '|' || v, 0),
       hashtextextended(v, 0), 'http://example.org/' || n, v
  FROM hfj_resource, generate_series(1, 4) n, LATERAL (SELECT CASE WHEN n < 3 THEN 'c' || (res_id % 97) ELSE 'id' || res_id END AS v) x;
INSERT INTO hfj_spidx_string (sp_id, sp_missing, sp_name, res_id, res_type, hash_exact, hash_identity, hash_norm_prefix, sp_value_exact, sp_value_normalized)
SELECT row_number() OVER (), false, 'family', res_id, res_type, hashtextextended(v, 0), 7, hashtextextended(left(v, 1), 0), v, upper(v)
  FROM hfj_resource, LATERAL (SELECT 'name' || (res_id % 1009) AS v) x WHERE res_type IN ('Patient', 'Practitioner');
INSERT INTO hfj_spidx_date (sp_id, sp_missing, sp_name, res_id, res_type, hash_identity, sp_value_low, sp_value_high, sp_value_low_date_ordinal,
                            sp_value_high_date_ordinal)
SELECT row_number() OVER (), false, 'date', res_id, res_type, 11, res_published, res_published, 20260101, 20260101 FROM hfj_resource;
INSERT INTO hfj_spidx_quantity (sp_id, sp_missing, sp_name, res_id, res_type, hash_identity, sp_value, sp_units)
SELECT row_number() OVER (), false, 'value-quantity', res_id, res_type, 13, res_id % 200, 'g' FROM hfj_resource WHERE res_type = 'Observation';
INSERT INTO hfj_spidx_uri (sp_id, sp_missing, sp_name, res_id, res_type, hash_identity, hash_uri, sp_uri)
SELECT row_number() OVER (), false, 'url', res_id, res_type, 17, hashtextextended(res_id::text, 0), 'http://example.org/' || res_id
  FROM hfj_resource WHERE res_id % 50 = 0;
INSERT INTO hfj_res_link (pid, src_path, src_resource_id, source_resource_type, target_resource_id, target_resource_type)
SELECT row_number() OVER (), r.res_type || '.subject', r.res_id, r.res_type, t.res_id, t.res_type
  FROM hfj_resource r JOIN hfj_resource t ON t.res_id = 1 + r.res_id / 20 * 20 + r.res_id / 20 WHERE r.sp_has_links;
SELECT setval('seq_resource_id', (SELECT max(res_id) / 50 * 50 + 51 FROM hfj_resource));
SELECT setval('seq_resource_history_id', (SELECT max(pid) / 50 * 50 + 51 FROM hfj_res_ver));
SELECT setval('seq_spidx_token', (SELECT max(sp_id) / 50 * 50 + 51 FROM hfj_spidx_token));
ANALYZE;
