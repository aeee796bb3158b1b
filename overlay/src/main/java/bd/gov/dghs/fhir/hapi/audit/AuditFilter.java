// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.audit;

import bd.gov.dghs.fhir.hapi.HeldResponse;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.time.Instant;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.springframework.web.filter.OncePerRequestFilter;

/**
 * One audit row and one log line for each request to /fhir.
 *
 * <p>The row is written by the request's own thread while the end of the answer is held back (see
 * {@link HeldResponse}): whoever has an answer in full has it on record, and a server that is shut
 * down has no queue of rows to lose. By then HAPI has given its connection back, so a request never
 * holds one of each pool.
 */
class AuditFilter extends OncePerRequestFilter {

    private static final Logger LOG = LoggerFactory.getLogger("bd.gov.dghs.fhir.access");
    private static final String REQUEST_ID = "X-Request-ID";

    private final AuditWriter writer;

    AuditFilter(AuditWriter writer) {
        this.writer = writer;
    }

    @Override
    protected void doFilterInternal(HttpServletRequest request, HttpServletResponse response, FilterChain chain)
            throws ServletException, IOException {
        Instant time = Instant.now();
        long start = System.nanoTime();
        HeldResponse held = new HeldResponse(response);
        boolean answered = false;
        try {
            chain.doFilter(request, held);
            answered = true;
        } finally {
            // What escapes from the servlet becomes a 500 only after this filter.
            int status = answered ? held.getStatus() : HttpServletResponse.SC_INTERNAL_SERVER_ERROR;
            record(request, held, time, status, (System.nanoTime() - start) / 1_000_000);
            held.release();
        }
    }

    private void record(
            HttpServletRequest request, HttpServletResponse response, Instant time, int status, long durationMs) {
        // HAPI answers with the id that it uses in its own log: the client's, if that was usable.
        String requestId = response.getHeader(REQUEST_ID);
        AuditEvent event = new AuditEvent(
                time,
                ClientId.of(request.getHeader("Authorization"), request.getHeader("X-Client-Id")),
                requestId != null ? requestId : request.getHeader(REQUEST_ID),
                request.getMethod(),
                // Without the query, which holds names and numbers of patients.
                request.getRequestURI(),
                status,
                durationMs,
                RejectionDetail.of(request));
        LOG.info(
                "{} {} {} {}ms client={} request={}",
                event.method(),
                event.path(),
                event.status(),
                event.durationMs(),
                event.clientId(),
                event.requestId());
        writer.write(event);
    }
}
