// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.audit;

import java.time.Instant;

/**
 * One answered request.
 *
 * @param detail why it was refused, if HAPI said so
 */
record AuditEvent(
        Instant time,
        String clientId,
        String requestId,
        String method,
        String path,
        int status,
        long durationMs,
        String detail) {

    private static final String FHIR_BASE = "/fhir/";

    /** The server understood the request and found its content wrong. */
    boolean isRejectedSubmission() {
        return status == 400 || status == 422;
    }

    String eventType() {
        return isRejectedSubmission() ? "VALIDATION_FAILURE" : "OPERATION";
    }

    /** Every 4xx counts as REJECTED: the fault is the client's. ERROR is kept for our own. */
    String outcome() {
        if (status >= 500) {
            return "ERROR";
        }
        return status >= 400 ? "REJECTED" : "ACCEPTED";
    }

    /**
     * The resource type that the path names, or null for the server's own paths and operations.
     * Taken from the path and not from HAPI, which never gets as far for a body it cannot parse.
     */
    String resourceType() {
        int base = path.indexOf(FHIR_BASE);
        if (base < 0) {
            return null;
        }
        String first = path.substring(base + FHIR_BASE.length()).split("[/?;]", 2)[0];
        return first.matches("[A-Z][A-Za-z]{1,63}") ? first : null;
    }
}
