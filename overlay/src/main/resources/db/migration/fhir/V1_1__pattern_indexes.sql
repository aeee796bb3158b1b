-- SPDX-License-Identifier: GPL-3.0-or-later
-- V1 is the schema that HAPI publishes in its jar, taken from there when this module is built.
-- HAPI's own migrator makes the same tables and, on PostgreSQL, these two indexes besides. Without
-- them a search by the start of a string or of a URI cannot use an index unless the database has
-- the C collation.
CREATE INDEX idx_sp_string_hash_nrm_pattern_ops
    ON hfj_spidx_string (hash_norm_prefix, sp_value_normalized varchar_pattern_ops, res_id, partition_id);

CREATE UNIQUE INDEX idx_sp_uri_hash_identity_pattern_ops
    ON hfj_spidx_uri (hash_identity, sp_uri varchar_pattern_ops, res_id, partition_id);
