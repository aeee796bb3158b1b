COMMENT ON TABLE audit.audit_events IS 'One row for each request to the FHIR interface';
