// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import bd.gov.dghs.fhir.hapi.HeldResponse;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.sql.SQLException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.springframework.web.filter.OncePerRequestFilter;

/**
 * Sends reads to the standby, once more to the primary if the standby failed, and gives writers a mark with
 * which their next read finds what they wrote.
 *
 * <p>It has to be the last filter before HAPI's servlet: what stands behind it would be skipped when a read
 * is done again.
 */
final class ReadFilter extends OncePerRequestFilter {

    private static final Logger LOG = LoggerFactory.getLogger(ReadFilter.class);
    private static final Set<String> WRITES = Set.of("POST", "PUT", "PATCH", "DELETE");
    private static final Duration LONGEST_FOR_A_MARK = Duration.ofSeconds(1);

    private final ReadGate gate;
    private final PrimaryPosition primary;
    private final Circuit circuit;
    private final ReadMetrics metrics;
    private final int heldBytes;

    ReadFilter(ReadGate gate, PrimaryPosition primary, Circuit circuit, ReadMetrics metrics, int heldBytes) {
        this.gate = gate;
        this.primary = primary;
        this.circuit = circuit;
        this.metrics = metrics;
        this.heldBytes = heldBytes;
    }

    @Override
    protected void doFilterInternal(HttpServletRequest request, HttpServletResponse response, FilterChain chain)
            throws ServletException, IOException {
        if (ReadPaths.isRead(request.getMethod())) {
            read(new WithoutNoStore(request), response, chain);
        } else if (WRITES.contains(request.getMethod()) && !request.getRequestURI().endsWith("/_search")) {
            write(request, response, chain);
        } else {
            chain.doFilter(request, response);
        }
    }

    private void write(HttpServletRequest request, HttpServletResponse response, FilterChain chain)
            throws ServletException, IOException {
        // HAPI commits before it writes the first byte of the answer.
        HeldResponse held = new HeldResponse(response, 0, () -> mark(response).giveTo(response, request.isSecure()));
        try {
            chain.doFilter(request, held);
        } finally {
            held.release();
        }
    }

    private Mark mark(HttpServletResponse response) {
        // Whether something was written before it failed is not known, and the primary may be in trouble.
        if (response.getStatus() >= HttpServletResponse.SC_INTERNAL_SERVER_ERROR) {
            return Mark.PRIMARY;
        }
        return primary.ask(LONGEST_FOR_A_MARK).map(Mark::at).orElse(Mark.PRIMARY);
    }

    private void read(HttpServletRequest request, HttpServletResponse response, FilterChain chain)
            throws ServletException, IOException {
        ReadGate.Decision decision = gate.decide(request);
        if (!decision.isStandby()) {
            metrics.count(decision.reason());
            chain.doFilter(request, response);
            return;
        }
        Map<String, Collection<String>> headers = headers(response);
        HeldResponse held = new HeldResponse(response, heldBytes, () -> {});
        Exception escaped = null;
        SQLException lost;
        Route.toStandby(decision.mark());
        try {
            chain.doFilter(request, held);
        } catch (IOException | ServletException | RuntimeException e) {
            escaped = e;
        } finally {
            lost = Route.backToPrimary();
        }
        SqlFailure failure = SqlFailure.worstOf(lost, FailureWitness.take(request), escaped);
        tell(failure);
        if (failure != SqlFailure.NONE && held.isHeld()) {
            LOG.info("Once more, on the primary: {} {}", request.getMethod(), request.getRequestURI());
            metrics.count(Reason.RETRIED);
            held.reset();
            headers.forEach((name, values) -> values.forEach(value -> response.addHeader(name, value)));
            chain.doFilter(request, response);
            return;
        }
        metrics.count(failure == SqlFailure.NONE ? Reason.OK : Reason.CUT);
        held.release();
        rethrow(escaped);
    }

    private void tell(SqlFailure failure) {
        if (failure == SqlFailure.UNREACHABLE) {
            circuit.requestFailed();
        } else {
            circuit.requestServed();
        }
    }

    /** What filters before this one have set has to outlive a reset. */
    private static Map<String, Collection<String>> headers(HttpServletResponse response) {
        Map<String, Collection<String>> headers = new LinkedHashMap<>();
        response.getHeaderNames().forEach(name -> headers.put(name, new ArrayList<>(response.getHeaders(name))));
        return headers;
    }

    private static void rethrow(Exception escaped) throws ServletException, IOException {
        if (escaped instanceof IOException e) {
            throw e;
        }
        if (escaped instanceof ServletException e) {
            throw e;
        }
        if (escaped instanceof RuntimeException e) {
            throw e;
        }
    }
}
