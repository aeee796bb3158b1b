// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.audit;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;

import java.time.Instant;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class AuditEventTest {

    @ParameterizedTest
    @CsvSource({
        "200, OPERATION, ACCEPTED, false",
        "201, OPERATION, ACCEPTED, false",
        "304, OPERATION, ACCEPTED, false",
        "400, VALIDATION_FAILURE, REJECTED, true",
        "401, OPERATION, REJECTED, false",
        "404, OPERATION, REJECTED, false",
        "409, OPERATION, REJECTED, false",
        "422, VALIDATION_FAILURE, REJECTED, true",
        "500, OPERATION, ERROR, false",
        "503, OPERATION, ERROR, false",
    })
    void statusDecidesTypeAndOutcome(int status, String type, String outcome, boolean rejected) {
        AuditEvent event = event("/fhir/Patient", status);
        assertEquals(type, event.eventType());
        assertEquals(outcome, event.outcome());
        assertEquals(rejected, event.isRejectedSubmission());
    }

    @ParameterizedTest
    @CsvSource({
        "/fhir/Patient, Patient",
        "/fhir/Patient/7/_history/2, Patient",
        "/fhir/Observation/$validate, Observation",
        "/behind/a/prefix/fhir/Encounter/1, Encounter",
        "/fhir/Patient;v=1, Patient",
    })
    void thePathNamesTheResourceType(String path, String type) {
        assertEquals(type, event(path, 200).resourceType());
    }

    @ParameterizedTest
    @ValueSource(strings = {"/fhir/", "/fhir", "/fhir/metadata", "/fhir/$meta", "/fhir/_history", "/fhir/P%00x"})
    void otherPathsNameNone(String path) {
        assertNull(event(path, 200).resourceType());
    }

    private static AuditEvent event(String path, int status) {
        return new AuditEvent(Instant.EPOCH, null, null, "GET", path, status, 0, null);
    }
}
