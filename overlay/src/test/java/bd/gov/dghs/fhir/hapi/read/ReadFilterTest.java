// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import bd.gov.dghs.fhir.hapi.DatabaseSettings;
import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.rest.annotation.Create;
import ca.uhn.fhir.rest.annotation.IdParam;
import ca.uhn.fhir.rest.annotation.Read;
import ca.uhn.fhir.rest.annotation.ResourceParam;
import ca.uhn.fhir.rest.api.MethodOutcome;
import ca.uhn.fhir.rest.server.IResourceProvider;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.exceptions.InternalErrorException;
import ca.uhn.fhir.rest.server.exceptions.ResourceNotFoundException;
import io.micrometer.core.instrument.simple.SimpleMeterRegistry;
import java.sql.SQLException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import org.hl7.fhir.instance.model.api.IBaseResource;
import org.hl7.fhir.r4.model.IdType;
import org.hl7.fhir.r4.model.Patient;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.springframework.mock.web.MockHttpServletRequest;
import org.springframework.mock.web.MockHttpServletResponse;
import org.springframework.mock.web.MockServletConfig;
import org.springframework.mock.web.MockServletContext;

/** The filter before a real RestfulServer, whose provider tells where its statements would have gone. */
class ReadFilterTest {

    private static final FhirContext FHIR = FhirContext.forR4Cached();

    private final SimpleMeterRegistry meters = new SimpleMeterRegistry();
    private final Patients patients = new Patients();
    private final RestfulServer server = new RestfulServer(FHIR);
    private final LagMeter lag = new LagMeter();
    private volatile long primaryAt = 10;
    private volatile long standbyAt = 10;
    private volatile boolean primaryAnswers = true;
    private ReadSettings.Unmarked unmarked = ReadSettings.Unmarked.ASK;
    private final Circuit circuit = new Circuit(System::nanoTime, () -> {});
    private final PrimaryPosition primary = new PrimaryPosition(
            new PrimaryPosition.Source() {
                @Override
                public PrimaryPosition.Answer ask() throws SQLException {
                    if (!primaryAnswers) {
                        throw new SQLException("gone", "08006");
                    }
                    return new PrimaryPosition.Answer(new Lsn(primaryAt), "system 1");
                }

                @Override
                public void close() {}
            },
            lag);
    private final StandbyMonitor monitor = new StandbyMonitor(
            new StandbyMonitor.Source() {
                @Override
                public StandbyMonitor.Reading read() {
                    return new StandbyMonitor.Reading(true, new Lsn(standbyAt), "system 1");
                }

                @Override
                public void tryPool(Lsn reached) {}

                @Override
                public void close() {}
            },
            () -> "system 1",
            lag,
            circuit,
            Duration.ofSeconds(10),
            System::nanoTime);
    private final ReadMetrics metrics = new ReadMetrics(meters, circuit, monitor);

    @BeforeEach
    void start() throws Exception {
        server.registerProvider(patients);
        server.registerInterceptor(new FailureWitness());
        server.init(new MockServletConfig(new MockServletContext(), "fhir"));
        primary.start();
        assertTrue(primary.ask(Duration.ofSeconds(20)).isPresent());
        monitor.probe();
        monitor.start();
        assertTrue(circuit.state().isUp());
    }

    @AfterEach
    void stop() {
        monitor.close();
        primary.close();
        assertNull(Route.standbyMark(), "no thread keeps its route");
    }

    @Test
    void aReadGoesToTheStandbyAndAWriteToThePrimary() throws Exception {
        assertEquals(200, call("GET", "/Patient/7").getStatus());
        assertEquals(201, call("POST", "/Patient").getStatus());
        assertEquals(List.of("read standby A", "create primary"), patients.calls);
        assertCounted("standby", "ok", 1);
    }

    @Test
    void aReadThatFailsOnTheStandbyIsDoneOnceMoreAndLooksAsIfItHadNotFailed() throws Exception {
        patients.standbyFails = new SQLException("terminating connection", "57P01");
        MockHttpServletRequest request = request("GET", "/Patient/7");
        MockHttpServletResponse response = new MockHttpServletResponse();
        response.setHeader("X-Of-Another-Filter", "kept");
        filter().doFilter(request, response, (req, res) -> server.service(req, res));
        assertEquals(200, response.getStatus());
        assertEquals("kept", response.getHeader("X-Of-Another-Filter"));
        assertEquals(1, response.getHeaders("Content-Type").size());
        assertEquals(List.of("read standby A", "read primary"), patients.calls);
        Patient patient = FHIR.newJsonParser().parseResource(Patient.class, response.getContentAsString());
        assertEquals("7", patient.getIdElement().getIdPart());
        assertCounted("primary", "retried", 1);
        assertCounted("standby", "ok", 0);
    }

    @Test
    void aLostConnectionIsKnownWhenTheRollbackHidesIt() throws Exception {
        patients.lost = new SQLException("terminating connection", "57P01");
        patients.standbyFails = new SQLException("Connection is closed");
        assertEquals(200, call("GET", "/Patient/7").getStatus());
        assertEquals(List.of("read standby A", "read primary"), patients.calls);
    }

    @Test
    void aFailureOfTheQueryItselfIsAnswered() throws Exception {
        patients.standbyFails = new SQLException("no such table", "42P01");
        assertEquals(500, call("GET", "/Patient/7").getStatus());
        assertEquals(404, call("GET", "/Patient/none").getStatus());
        assertEquals(List.of("read standby A", "read standby A"), patients.calls);
    }

    @Test
    void whatThePrimaryCannotAnswerEitherIsAnError() throws Exception {
        patients.standbyFails = new SQLException("gone", "08006");
        patients.primaryFails = new SQLException("gone too", "08006");
        assertEquals(500, call("GET", "/Patient/7").getStatus());
        assertEquals(List.of("read standby A", "read primary"), patients.calls);
    }

    @Test
    void whatIsSentIsNotSentAgain() throws Exception {
        patients.standbyFails = new SQLException("gone", "08006");
        // With nothing held back the error is on its way when it is known.
        MockHttpServletResponse response = new MockHttpServletResponse();
        filter(0).doFilter(request("GET", "/Patient/7"), response, (req, res) -> server.service(req, res));
        assertEquals(500, response.getStatus());
        assertEquals(List.of("read standby A"), patients.calls);
        assertCounted("standby", "cut", 1);
    }

    @Test
    void afterThreeFailuresThePrimaryIsAskedAtOnce() throws Exception {
        monitor.close();
        patients.standbyFails = new SQLException("gone", "08006");
        for (int i = 0; i < 4; i++) {
            assertEquals(200, call("GET", "/Patient/7").getStatus());
        }
        assertEquals("read primary", patients.calls.get(7 - 1));
        assertEquals(7, patients.calls.size());
        assertCounted("primary", "retried", 3);
        assertCounted("primary", "out", 1);
    }

    @Test
    void theWritersNextReadWaitsForTheStandbyOrGoesToThePrimary() throws Exception {
        primaryAt = 11;
        MockHttpServletResponse created = call("POST", "/Patient");
        assertEquals("0/B", created.getHeader(Mark.HEADER));
        assertNotNull(created.getCookie(Mark.COOKIE));

        MockHttpServletRequest read = request("GET", "/Patient/7");
        read.setCookies(created.getCookie(Mark.COOKIE));
        patients.calls.clear();
        assertEquals(200, call(read).getStatus());
        assertEquals(List.of("read primary"), patients.calls);
        assertCounted("primary", "mark_timeout", 1);

        standbyAt = 11;
        monitor.probe();
        assertEquals(200, call(read).getStatus());
        assertEquals(List.of("read primary", "read standby B"), patients.calls);
    }

    @Test
    void aReadWithoutAMarkAsksThePrimary() throws Exception {
        primaryAt = 11;
        call("GET", "/Patient/7");
        standbyAt = 12;
        monitor.probe();
        call("GET", "/Patient/7");
        primaryAnswers = false;
        call("GET", "/Patient/7");
        assertEquals(List.of("read primary", "read standby B", "read primary"), patients.calls);
        assertCounted("primary", "ask_failed", 1);
    }

    @Test
    void orDoesAsItIsSetTo() throws Exception {
        primaryAt = 11;
        unmarked = ReadSettings.Unmarked.STANDBY;
        call("GET", "/Patient/7");
        unmarked = ReadSettings.Unmarked.PRIMARY;
        call("GET", "/Patient/7");
        assertEquals(List.of("read standby 0", "read primary"), patients.calls);
        assertCounted("primary", "configured", 1);
    }

    @Test
    void marksThatAreNonsenseOrFarAheadAreNoError() throws Exception {
        for (String mark : new String[] {"nonsense", "FFFFFFFF/FFFFFFFF", "primary"}) {
            MockHttpServletRequest read = request("GET", "/Patient/7");
            read.addHeader(Mark.HEADER, mark);
            assertEquals(200, call(read).getStatus());
        }
        assertEquals(List.of("read primary", "read primary", "read primary"), patients.calls);
        assertCounted("primary", "bad_mark", 1);
        assertCounted("primary", "mark_timeout", 1);
        assertCounted("primary", "mark_primary", 1);
    }

    @Test
    void aWishForThePrimaryIsGranted() throws Exception {
        MockHttpServletRequest read = request("GET", "/Patient/7");
        read.addHeader("Cache-Control", "max-age=0, No-Cache");
        call(read);
        call("GET", "/metadata");
        assertEquals(List.of("read primary"), patients.calls);
        assertCounted("primary", "no_cache", 1);
        assertCounted("primary", "not_routable", 1);
    }

    @Test
    void aWriterWhoseMarkIsNotKnownReadsFromThePrimary() throws Exception {
        primaryAnswers = false;
        assertEquals("primary", call("POST", "/Patient").getHeader(Mark.HEADER));
        primaryAnswers = true;
        patients.primaryFails = new SQLException("gone", "08006");
        MockHttpServletResponse failed = call("POST", "/Patient");
        assertEquals(500, failed.getStatus());
        assertEquals("primary", failed.getHeader(Mark.HEADER));
    }

    @Test
    void readsAndSearchesGiveNoMark() throws Exception {
        assertNull(call("GET", "/Patient/7").getHeader(Mark.HEADER));
        assertNull(call("POST", "/Patient/_search").getHeader(Mark.HEADER));
        assertFalse(call("GET", "/Patient/7").containsHeader("Set-Cookie"));
    }

    private MockHttpServletResponse call(String method, String path) throws Exception {
        return call(request(method, path));
    }

    private MockHttpServletResponse call(MockHttpServletRequest request) throws Exception {
        MockHttpServletResponse response = new MockHttpServletResponse();
        // Done once for each request in a container.
        request.clearAttributes();
        filter().doFilter(request, response, (req, res) -> server.service(req, res));
        return response;
    }

    private ReadFilter filter() {
        return filter(1 << 20);
    }

    private ReadFilter filter(int heldBytes) {
        DatabaseSettings nowhere = new DatabaseSettings("jdbc:postgresql://nowhere/fhir", null, null);
        ReadSettings settings = new ReadSettings(
                nowhere,
                5,
                Duration.ofSeconds(1),
                Duration.ofSeconds(1),
                Duration.ofSeconds(10),
                Duration.ofMillis(200),
                unmarked,
                heldBytes);
        ReadGate gate =
                new ReadGate(new ReadPaths(FHIR.getResourceTypes()), settings, circuit, monitor, primary, metrics);
        return new ReadFilter(gate, primary, circuit, metrics, heldBytes);
    }

    private static MockHttpServletRequest request(String method, String path) {
        MockHttpServletRequest request = ReadPathsTest.request(method, path);
        request.setPathInfo(path);
        if (method.equals("POST") && !path.endsWith("_search")) {
            request.setContentType("application/fhir+json");
            request.setContent("{\"resourceType\":\"Patient\"}".getBytes());
        }
        return request;
    }

    private void assertCounted(String route, String reason, int times) {
        assertEquals(
                times,
                meters.get("fhir.read.requests").tags("route", route, "reason", reason).counter().count());
    }

    static final class Patients implements IResourceProvider {

        final List<String> calls = new ArrayList<>();
        SQLException standbyFails;
        SQLException primaryFails;
        SQLException lost;

        @Read
        public Patient read(@IdParam IdType id) {
            note("read");
            if (id.getIdPart().equals("none")) {
                throw new ResourceNotFoundException(id);
            }
            fail();
            Patient patient = new Patient();
            patient.setId(id);
            return patient;
        }

        @Create
        public MethodOutcome create(@ResourceParam Patient patient) {
            note("create");
            fail();
            return new MethodOutcome(new IdType("Patient/8"), true);
        }

        @Override
        public Class<? extends IBaseResource> getResourceType() {
            return Patient.class;
        }

        private void note(String what) {
            String route = Optional.ofNullable(Route.standbyMark())
                    .map(mark -> "standby " + Long.toString(mark.position(), 16).toUpperCase())
                    .orElse("primary");
            calls.add(what + " " + route);
        }

        private void fail() {
            if (lost != null) {
                new ConnectionWitness().adjudicate(lost);
            }
            SQLException failure = Route.standbyMark() != null ? standbyFails : primaryFails;
            if (failure != null) {
                throw new InternalErrorException(failure);
            }
        }
    }
}
