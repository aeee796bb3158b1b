// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ca.uhn.fhir.context.FhirContext;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.springframework.mock.web.MockHttpServletRequest;

class ReadPathsTest {

    private static final ReadPaths PATHS = new ReadPaths(FhirContext.forR4Cached().getResourceTypes());

    @ParameterizedTest
    @ValueSource(strings = {
        "/Patient/7",
        "/Patient/a-b.C9",
        "/Patient/7/",
        "/Patient/7/_history/2",
        "/Patient/7/_history",
        "/Patient/7/_history/",
        "/Patient/_history",
        "/_history",
        "/%5fhistory",
        "/Patient",
        "/Patient/",
        "/Patient/7/Observation",
        "/Binary/7",
    })
    void reads(String path) {
        assertTrue(PATHS.isReadPath(path));
        assertTrue(PATHS.canBeServedByAStandby(request("GET", path)));
        assertTrue(PATHS.canBeServedByAStandby(request("HEAD", path)));
        assertFalse(PATHS.canBeServedByAStandby(request("POST", path)));
        assertFalse(PATHS.canBeServedByAStandby(request("OPTIONS", path)));
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "",
        "/",
        "//Patient",
        "/Patient//7",
        "/metadata",
        "/patient/7",
        "/Patients/7",
        "/Patient;v=1/7",
        "/Patient/7;v=1",
        "/Patient/_search",
        "/Patient/$everything",
        "/Patient/7/$everything",
        "/Patient/7/%24everything",
        "/Patient/7/$meta",
        "/Patient/$export",
        "/$export",
        "/$meta",
        "/Patient/7/_history/2/$meta",
        "/Patient/7%2F_history",
        "/Patient/%zz",
        "/Patient/../metadata",
        "/Patient/7/observation",
        "/Patient/7/Observation/8",
        "/swagger-ui",
    })
    void everythingElseGoesToThePrimary(String path) {
        assertFalse(PATHS.isReadPath(path));
    }

    @Test
    void storedPagesAndNamedQueriesGoToThePrimary() {
        MockHttpServletRequest search = request("GET", "/Patient");
        search.addParameter("family", "x");
        assertTrue(PATHS.canBeServedByAStandby(search));
        for (String name : new String[] {"_getpages", "_query"}) {
            MockHttpServletRequest page = request("GET", "/Patient");
            page.addParameter(name, "x");
            assertFalse(PATHS.canBeServedByAStandby(page), name);
        }
    }

    @Test
    void aPathThatTheContainerReadDifferentlyGoesToThePrimary() {
        MockHttpServletRequest request = new MockHttpServletRequest("GET", "/%66hir/Patient/7");
        request.setServletPath("/fhir");
        assertFalse(PATHS.canBeServedByAStandby(request));
    }

    static MockHttpServletRequest request(String method, String path) {
        MockHttpServletRequest request = new MockHttpServletRequest(method, "/fhir" + path);
        request.setServletPath("/fhir");
        return request;
    }
}
