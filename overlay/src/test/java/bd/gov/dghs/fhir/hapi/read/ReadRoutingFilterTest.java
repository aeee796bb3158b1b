// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;

import bd.gov.dghs.fhir.hapi.SettingException;
import io.micrometer.core.instrument.simple.SimpleMeterRegistry;
import jakarta.servlet.FilterChain;
import jakarta.servlet.http.Cookie;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.springframework.mock.env.MockEnvironment;
import org.springframework.mock.web.MockHttpServletRequest;
import org.springframework.mock.web.MockHttpServletResponse;

class ReadRoutingFilterTest {

    private final StandbyTest.Played played = new StandbyTest.Played();
    private final Standby standby = new Standby(played, 10, System::nanoTime);
    private final SimpleMeterRegistry meters = new SimpleMeterRegistry();
    private final MockEnvironment environment = new MockEnvironment();
    private final List<Route> routes = new ArrayList<>();
    private final MockHttpServletResponse response = new MockHttpServletResponse();
    private final FilterChain server = (request, answer) -> {
        routes.add(Route.present());
        answer.getOutputStream().write('x');
    };

    private MockHttpServletRequest request(String method, String path) {
        MockHttpServletRequest request = new MockHttpServletRequest(method, "/fhir" + path);
        request.setPathInfo(path);
        return request;
    }

    private void filter(HttpServletRequest request, FilterChain chain) throws Exception {
        standby.look();
        // Whoever asks answers himself.
        PrimaryPosition primary = new PrimaryPosition(played, standby, Runnable::run);
        new ReadRoutingFilter(ReadSettings.of(environment), standby, primary, Set.of("Patient"), meters)
                .doFilter(request, response, chain);
    }

    private double counted(String route, String reason) {
        return meters.counter("fhir.read.requests", "route", route, "reason", reason).count();
    }

    @Test
    void aReadGoesToTheStandbyThatIsWhereThePrimaryIs() throws Exception {
        filter(request("GET", "/Patient/1"), server);

        assertEquals(List.of(Route.STANDBY), routes);
        assertEquals(Route.PRIMARY, Route.present());
        assertEquals(1, counted("standby", "ok"));
    }

    @Test
    void notWhenItIsBehindWhatThePrimaryHas() throws Exception {
        played.primary = 101;
        environment.setProperty("HAPI_READ_WAIT_MS", "1");
        filter(request("GET", "/Patient/1"), server);

        assertEquals(List.of(Route.PRIMARY), routes);
        assertEquals(1, counted("primary", "mark_timeout"));
    }

    @Test
    void notWhenThePrimaryDoesNotSay() throws Exception {
        played.primaryFailure = new SQLException("away");
        filter(request("GET", "/Patient/1"), server);

        assertEquals(1, counted("primary", "ask_failed"));
    }

    @Test
    void aMarkIsAllThatItsClientNeeds() throws Exception {
        played.primary = 1000;
        MockHttpServletRequest request = request("GET", "/Patient/1");
        request.addHeader("X-FHIR-Read-After", "0/64");
        filter(request, server);
        assertEquals(List.of(Route.STANDBY), routes);

        environment.setProperty("HAPI_READ_WAIT_MS", "1");
        request.setCookies(new Cookie("fhir-read-after", "0-65"));
        filter(request, server);
        assertEquals(List.of(Route.STANDBY, Route.PRIMARY), routes);
    }

    @Test
    void aWrongMarkCountsAsNone() throws Exception {
        MockHttpServletRequest request = request("GET", "/Patient/1");
        request.addHeader("X-FHIR-Read-After", "'; DROP TABLE");
        request.setCookies(new Cookie("fhir-read-after", ""), new Cookie("other", "0-FF"));
        filter(request, server);

        assertEquals(List.of(Route.STANDBY), routes);
    }

    @ParameterizedTest
    @CsvSource({"primary, configured", "ask, mark_timeout", "standby, ok"})
    void whatAReadWithoutAMarkDoesIsASetting(String setting, String reason) throws Exception {
        environment.setProperty("HAPI_READ_UNMARKED", setting);
        environment.setProperty("HAPI_READ_WAIT_MS", "1");
        played.primary = 101;
        filter(request("GET", "/Patient"), server);

        assertEquals(1, counted(reason.equals("ok") ? "standby" : "primary", reason));
    }

    @Test
    void aStandbyThatIsOutIsNotAsked() throws Exception {
        played.failure = new SQLException("gone");
        filter(request("GET", "/Patient/1"), server);

        assertEquals(1, counted("primary", "out"));
    }

    @Test
    void writesAndWhatIsNotKnownToReadGoToThePrimary() throws Exception {
        filter(request("POST", "/Patient"), server);
        filter(request("GET", "/Patient/$export"), server);
        MockHttpServletRequest page = request("GET", "/Patient");
        page.setParameter("_getpages", "1");
        filter(page, server);
        MockHttpServletRequest fresh = request("GET", "/Patient/1");
        fresh.addHeader("Cache-Control", "max-age=0, No-Cache");
        filter(fresh, server);

        assertEquals(List.of(Route.PRIMARY, Route.PRIMARY, Route.PRIMARY, Route.PRIMARY), routes);
        assertEquals(2, counted("primary", "not_routable"));
        assertEquals(1, counted("primary", "no_cache"));
    }

    @Test
    void theAnswerToAWriteCarriesAMarkThatIsTakenAfterTheWork() throws Exception {
        filter(request("POST", "/Patient"), (request, answer) -> {
            played.primary = 500;
            ((HttpServletResponse) answer).setStatus(201);
            answer.getWriter().write("x");
        });

        assertEquals("0/1F4", response.getHeader("X-FHIR-Read-After"));
        assertEquals("0-1F4", response.getCookie("fhir-read-after").getValue());
        assertEquals("/", response.getCookie("fhir-read-after").getPath());
    }

    @Test
    void anAnswerWithoutABodyCarriesOneTooAndAFailureNone() throws Exception {
        filter(request("DELETE", "/Patient/1"), (request, answer) -> ((HttpServletResponse) answer).setStatus(204));
        assertEquals("0/64", response.getHeader("X-FHIR-Read-After"));

        response.reset();
        filter(request("POST", "/Patient"), (request, answer) -> ((HttpServletResponse) answer).setStatus(500));
        assertNull(response.getHeader("X-FHIR-Read-After"));

        played.primaryFailure = new SQLException("away");
        filter(request("POST", "/Patient"), server);
        assertNull(response.getHeader("X-FHIR-Read-After"));
    }

    @Test
    void aReadThatFailsOnTheStandbyIsServedByThePrimary() throws Exception {
        filter(request("GET", "/Patient/1"), (request, answer) -> {
            routes.add(Route.present());
            if (Route.present() == Route.STANDBY) {
                new StandbyFailure().keep(new SQLException("x", "57P01"), (HttpServletRequest) request);
                ((HttpServletResponse) answer).setStatus(500);
                answer.getOutputStream().write('!');
                return;
            }
            answer.getOutputStream().write('x');
        });

        assertEquals(List.of(Route.STANDBY, Route.PRIMARY), routes);
        assertEquals(200, response.getStatus());
        assertEquals("x", response.getContentAsString());
        assertEquals(1, counted("primary", "retried"));
        assertEquals(0, counted("standby", "ok"));
    }

    @Test
    void notOnceMoreWhenThatIsNotTheStandbysFault() {
        assertThrows(IllegalStateException.class, () -> filter(request("GET", "/Patient/1"), (request, answer) -> {
            routes.add(Route.present());
            throw new IllegalStateException("a fault of ours");
        }));
        assertEquals(List.of(Route.STANDBY), routes);
        assertEquals(Route.PRIMARY, Route.present());
    }

    @Test
    void notOnceMoreWhenTheAnswerHasBegun() throws Exception {
        filter(request("GET", "/Patient/1"), (request, answer) -> {
            routes.add(Route.present());
            answer.flushBuffer();
            new StandbyFailure().keep(new SQLException("x", "08006"), (HttpServletRequest) request);
        });

        assertEquals(List.of(Route.STANDBY), routes);
    }

    @Test
    void noStoreDoesNotReachHapi() throws Exception {
        MockHttpServletRequest request = request("GET", "/Patient");
        request.addHeader("Cache-Control", "no-store, max-results=20");
        List<String> seen = new ArrayList<>();
        filter(request, (inner, answer) -> seen.add(((HttpServletRequest) inner).getHeader("cache-control")));
        assertEquals(List.of("max-results=20"), seen);
    }

    @ParameterizedTest
    @CsvSource({
        "HAPI_READ_UNMARKED, maybe", "HAPI_READ_WAIT_MS, -1", "HAPI_READ_WAIT_MS, soon", "HAPI_READ_MAX_LAG_SECONDS, 0",
        "HAPI_READ_HELD_BYTES, 1", "HAPI_READ_PAGE_SIZE, 500", "HAPI_DATASOURCE_READ_POOL_SIZE, 0",
    })
    void aWrongSettingIsNamed(String name, String value) {
        environment.setProperty(name, value);
        SettingException refused = assertThrows(SettingException.class, () -> ReadSettings.of(environment));
        assertEquals(true, refused.getMessage().contains(name));
    }

    @Test
    void withoutAUrlItIsOff() {
        assertEquals(false, ReadSettings.configured(environment));
        environment.setProperty("HAPI_DATASOURCE_READ_URL", "");
        assertEquals(false, ReadSettings.configured(environment));
        environment.setProperty("HAPI_DATASOURCE_READ_URL", "jdbc:postgresql://standby/fhirdb");
        assertEquals(true, ReadSettings.configured(environment));
    }
}
