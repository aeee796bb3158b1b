// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static bd.gov.dghs.fhir.hapi.read.LsnTest.lsn;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import jakarta.servlet.http.Cookie;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.springframework.mock.web.MockHttpServletRequest;
import org.springframework.mock.web.MockHttpServletResponse;

class MarkTest {

    private final MockHttpServletRequest request = new MockHttpServletRequest();

    @Test
    void theFurthestCounts() {
        assertEquals(Mark.NONE, Mark.of(request));
        request.setCookies(new Cookie("other", "x"), new Cookie(Mark.COOKIE, "0/3000060"));
        assertEquals(Mark.at(lsn("0/3000060")), Mark.of(request));
        request.addHeader(Mark.HEADER, " 1/0 ");
        assertEquals(Mark.at(lsn("1/0")), Mark.of(request));
        request.addHeader(Mark.HEADER, "0/1");
        assertEquals(Mark.at(lsn("1/0")), Mark.of(request));
        request.addHeader(Mark.HEADER, "primary");
        assertEquals(Mark.PRIMARY, Mark.of(request));
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "x", "0/", "FFFFFFFFF/0", "'", "0/1,0/2"})
    void nonsenseIsNoError(String text) {
        request.addHeader(Mark.HEADER, text);
        assertEquals(Mark.UNREADABLE, Mark.of(request));
    }

    @Test
    void itTravelsAsHeaderAndAsCookie() {
        MockHttpServletResponse response = new MockHttpServletResponse();
        Mark.at(lsn("0/3000060")).giveTo(response, false);
        assertEquals("0/3000060", response.getHeader("X-FHIR-Read-After"));
        String cookie = response.getHeader("Set-Cookie");
        assertTrue(cookie.startsWith("fhir-read-after=0/3000060; Path=/; Max-Age=300;"), cookie);
        assertTrue(cookie.endsWith("HttpOnly; SameSite=Lax"), cookie);

        MockHttpServletResponse secure = new MockHttpServletResponse();
        Mark.PRIMARY.giveTo(secure, true);
        assertEquals("primary", secure.getHeader("X-FHIR-Read-After"));
        assertTrue(secure.getHeader("Set-Cookie").contains("; Secure; "));
    }
}
