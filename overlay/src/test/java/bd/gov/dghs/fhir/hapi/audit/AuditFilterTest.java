// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.audit;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;

import ca.uhn.fhir.rest.server.exceptions.UnprocessableEntityException;
import io.micrometer.core.instrument.simple.SimpleMeterRegistry;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.sql.Connection;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.springframework.jdbc.datasource.AbstractDataSource;
import org.springframework.mock.web.MockHttpServletRequest;
import org.springframework.mock.web.MockHttpServletResponse;

class AuditFilterTest {

    private final MockHttpServletRequest request = new MockHttpServletRequest("POST", "/fhir/Patient");
    private final MockHttpServletResponse response = new MockHttpServletResponse();
    private final List<AuditEvent> written = new ArrayList<>();

    @Test
    void theRowIsWrittenBeforeTheAnswerIsComplete() throws Exception {
        boolean[] committed = new boolean[1];
        AuditWriter writer = new AuditWriter(new NoDatabase(), null, new SimpleMeterRegistry()) {
            @Override
            void write(AuditEvent event) {
                committed[0] = response.isCommitted();
                written.add(event);
            }
        };

        new AuditFilter(writer).doFilter(request, response, (req, res) -> {
            res.setCharacterEncoding("UTF-8");
            ((HttpServletResponse) res).setStatus(201);
            ((HttpServletResponse) res).setHeader("X-Request-ID", "r1");
            res.getWriter().write("স্বাস্থ্য");
            res.flushBuffer();
            res.getWriter().close();
        });

        assertFalse(committed[0]);
        assertEquals("স্বাস্থ্য", response.getContentAsString());
        assertEquals(1, written.size());
        assertEquals(201, written.get(0).status());
        assertEquals("r1", written.get(0).requestId());
        assertEquals("Patient", written.get(0).resourceType());
    }

    @Test
    void whatEscapesFromTheServerIsRecordedAsAnError() {
        ServletException escaped =
                assertThrows(ServletException.class, () -> filter((req, res) -> {
                    throw new ServletException("broken");
                }));
        assertEquals("broken", escaped.getMessage());
        assertEquals("ERROR", written.get(0).outcome());
    }

    @Test
    void theReasonOfARefusalIsKept() throws Exception {
        filter((req, res) -> {
            new RejectionDetail().keep(request, new UnprocessableEntityException("bad\0 code"));
            ((HttpServletResponse) res).setStatus(422);
        });
        assertEquals("bad code", written.get(0).detail());
    }

    @Test
    void aRowThatCannotBeWrittenIsCountedAndHurtsNobody() throws Exception {
        SimpleMeterRegistry meters = new SimpleMeterRegistry();
        AuditFilter filter = new AuditFilter(new AuditWriter(new NoDatabase(), null, meters));

        for (int status : new int[] {200, 422}) {
            MockHttpServletResponse answer = new MockHttpServletResponse();
            filter.doFilter(new MockHttpServletRequest("GET", "/fhir/Patient/1"), answer, (req, res) ->
                    ((HttpServletResponse) res).setStatus(status));
            assertEquals(status, answer.getStatus());
        }

        assertEquals(2, meters.get("audit.insert.failures").counter().count());
    }

    private void filter(FilterChain chain) throws ServletException, IOException {
        AuditWriter writer = new AuditWriter(new NoDatabase(), null, new SimpleMeterRegistry()) {
            @Override
            void write(AuditEvent event) {
                written.add(event);
            }
        };
        new AuditFilter(writer).doFilter(request, response, chain);
    }

    private static final class NoDatabase extends AbstractDataSource {
        @Override
        public Connection getConnection() throws SQLException {
            throw new SQLException("no database here");
        }

        @Override
        public Connection getConnection(String username, String password) throws SQLException {
            return getConnection();
        }
    }
}
