// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.Set;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class ReadRequestTest {

    private static final Set<String> TYPES = Set.of("Patient", "Observation", "Encounter");

    @ParameterizedTest
    @CsvSource({
        "GET, /Patient, true",
        "HEAD, /Patient/1, true",
        "GET, /Patient/1, true",
        "GET, Patient/1, true",
        "GET, /Patient/1/_history, true",
        "GET, /Patient/1/_history/2, true",
        "GET, /Patient/_history, true",
        "GET, /_history, true",
        "GET, /Patient/1/$everything, true",
        "GET, /Patient/$everything, true",
        "GET, /Patient/1/Observation, true",
        "POST, /Patient/_search, false",
        "POST, /Patient, false",
        "PUT, /Patient/1, false",
        "DELETE, /Patient/1, false",
        "GET, /, false",
        "GET, '', false",
        "GET, , false",
        "GET, /metadata, false",
        "GET, /$export, false",
        "GET, /Patient/$export, false",
        "GET, /Patient/$match, false",
        "GET, /Patient/_search, false",
        "GET, /Patient/, false",
        "GET, /Patient/1/$validate, false",
        "GET, /Patient/1/_history/2/$meta, false",
        "GET, /Unknown/1, false",
        "GET, /patient/1, false",
    })
    void onlyWhatIsKnownToRead(String method, String path, boolean routable) {
        assertEquals(routable, ReadRequest.routable(method, path, TYPES));
    }
}
