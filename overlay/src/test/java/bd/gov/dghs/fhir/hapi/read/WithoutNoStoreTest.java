// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.springframework.mock.web.MockHttpServletRequest;

class WithoutNoStoreTest {

    @ParameterizedTest
    @CsvSource(
            delimiter = ';',
            value = {
                "no-store; ",
                "No-Store; ",
                "no-store, max-age=0; max-age=0",
                "no-store, max-results=20; no-store, max-results=20",
                "max-age=0; max-age=0",
            })
    void onlyAnEndThatWasAskedForIsLeft(String sent, String seen) {
        MockHttpServletRequest request = new MockHttpServletRequest();
        request.addHeader("Cache-Control", sent);
        request.addHeader("Accept", "no-store");
        WithoutNoStore wrapped = new WithoutNoStore(request);
        assertEquals(seen, wrapped.getHeader("cache-control"));
        assertEquals("no-store", wrapped.getHeader("Accept"));
    }

    @Test
    void noHeaderIsNone() {
        WithoutNoStore wrapped = new WithoutNoStore(new MockHttpServletRequest());
        assertNull(wrapped.getHeader("Cache-Control"));
        assertFalse(wrapped.getHeaders("Cache-Control").hasMoreElements());
    }
}
