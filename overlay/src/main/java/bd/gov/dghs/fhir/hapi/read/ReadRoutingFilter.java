// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.Timer;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.Cookie;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletRequestWrapper;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.sql.SQLException;
import java.time.Duration;
import java.util.Collections;
import java.util.Enumeration;
import java.util.List;
import java.util.Locale;
import java.util.OptionalLong;
import java.util.Set;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.springframework.web.filter.OncePerRequestFilter;

/**
 * Sends each request to the database that it may use, and a read that has failed on the standby once
 * more to the primary.
 *
 * <p>A client sees what it has written: the answer to a write carries a mark, in a header and a
 * cookie, and a read that brings the mark back is served by the standby only if that has got as far.
 * For a read without a mark the primary is asked how far it is.
 *
 * <p>It must be the last filter, since it lets the servlet serve a request a second time.
 */
class ReadRoutingFilter extends OncePerRequestFilter {

    static final String MARK = "X-FHIR-Read-After";
    private static final Logger LOG = LoggerFactory.getLogger(ReadRoutingFilter.class);
    private static final String COOKIE = "fhir-read-after";
    private static final int COOKIE_SECONDS = 300;
    private static final String COUNTER = "fhir.read.requests";
    private static final long ASK_MS = 1000;

    /** Why a read goes where it goes; the name is the label in the metrics. */
    private enum Reason {
        OK,
        NOT_ROUTABLE,
        NO_CACHE,
        CONFIGURED,
        OUT,
        LAGGING,
        ASK_FAILED,
        MARK_TIMEOUT,
        RETRIED
    }

    private final ReadSettings settings;
    private final Standby standby;
    private final PrimaryPosition primary;
    private final Set<String> types;
    private final MeterRegistry meters;
    private final Timer waited;

    ReadRoutingFilter(
            ReadSettings settings, Standby standby, PrimaryPosition primary, Set<String> types, MeterRegistry meters) {
        this.settings = settings;
        this.standby = standby;
        this.primary = primary;
        this.types = types;
        this.meters = meters;
        this.waited = Timer.builder("fhir.read.wait")
                .description("How long reads have waited until the standby was far enough")
                .register(meters);
    }

    @Override
    protected void doFilterInternal(HttpServletRequest request, HttpServletResponse response, FilterChain chain)
            throws ServletException, IOException {
        boolean reads = request.getMethod().equals("GET") || request.getMethod().equals("HEAD");
        if (!reads) {
            write(request, response, chain);
            return;
        }
        Reason reason = decide(request);
        HttpServletRequest served = new WithoutNoStore(request);
        if (reason != Reason.OK) {
            count(Route.PRIMARY, reason);
            chain.doFilter(served, response);
            return;
        }
        if (response.getBufferSize() < settings.heldBytes()) {
            response.setBufferSize(settings.heldBytes());
        }
        StandbyFailure.Kind failure = onStandby(served, response, chain);
        if (failure == StandbyFailure.Kind.NONE) {
            standby.succeeded();
            count(Route.STANDBY, Reason.OK);
            return;
        }
        if (failure == StandbyFailure.Kind.STANDBY) {
            standby.failed();
        }
        StandbyFailure.forget(request);
        if (response.isCommitted()) {
            // Half of an answer is with the client: it sees it end early.
            return;
        }
        response.reset();
        if (response.getBufferSize() < settings.heldBytes()) {
            response.setBufferSize(settings.heldBytes());
        }
        count(Route.PRIMARY, Reason.RETRIED);
        chain.doFilter(served, response);
    }

    /** Serves a read on the standby, and tells whether that has failed because of it. */
    private static StandbyFailure.Kind onStandby(HttpServletRequest request, HttpServletResponse response, FilterChain chain)
            throws ServletException, IOException {
        Route.take(Route.STANDBY);
        try {
            chain.doFilter(request, response);
            return StandbyFailure.seen(request);
        } catch (ServletException | RuntimeException e) {
            StandbyFailure.Kind kind = StandbyFailure.kind(e);
            if (kind == StandbyFailure.Kind.NONE) {
                throw e;
            }
            return kind;
        } finally {
            Route.leave();
        }
    }

    private Reason decide(HttpServletRequest request) {
        if (!ReadRequest.routable(request.getMethod(), request.getPathInfo(), types)
                || request.getParameter("_getpages") != null) {
            return Reason.NOT_ROUTABLE;
        }
        if (directives(request).contains("no-cache")) {
            return Reason.NO_CACHE;
        }
        OptionalLong mark = mark(request);
        if (mark.isEmpty() && settings.unmarked() == ReadSettings.Unmarked.PRIMARY) {
            return Reason.CONFIGURED;
        }
        if (!standby.isUp()) {
            return standby.isLagging() ? Reason.LAGGING : Reason.OUT;
        }
        if (mark.isEmpty() && settings.unmarked() == ReadSettings.Unmarked.STANDBY) {
            return Reason.OK;
        }
        long begin = System.nanoTime();
        try {
            long wanted = mark.isPresent() ? mark.getAsLong() : primary.ask(ASK_MS);
            return standby.awaits(wanted, settings.waitMs()) ? Reason.OK : standby.isUp() ? Reason.MARK_TIMEOUT : Reason.OUT;
        } catch (SQLException e) {
            LOG.debug("A read goes to the primary: {}", e.getMessage());
            return Reason.ASK_FAILED;
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            return Reason.ASK_FAILED;
        } finally {
            waited.record(Duration.ofNanos(System.nanoTime() - begin));
        }
    }

    private void write(HttpServletRequest request, HttpServletResponse response, FilterChain chain)
            throws ServletException, IOException {
        MarkedResponse marked = new MarkedResponse(response, () -> mark(response));
        chain.doFilter(request, marked);
        marked.end();
    }

    /** Puts the position behind a write on its answer. A client without it is none the worse: the primary is asked for it. */
    private void mark(HttpServletResponse response) {
        if (response.isCommitted() || response.getStatus() >= HttpServletResponse.SC_INTERNAL_SERVER_ERROR) {
            return;
        }
        try {
            String position = Lsn.text(primary.ask(ASK_MS));
            response.setHeader(MARK, position);
            Cookie cookie = new Cookie(COOKIE, position.replace('/', '-'));
            cookie.setPath("/");
            cookie.setHttpOnly(true);
            cookie.setMaxAge(COOKIE_SECONDS);
            cookie.setAttribute("SameSite", "Lax");
            response.addCookie(cookie);
        } catch (SQLException e) {
            LOG.debug("An answer has no mark: {}", e.getMessage());
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    private static OptionalLong mark(HttpServletRequest request) {
        OptionalLong header = Lsn.parse(request.getHeader(MARK));
        OptionalLong found = header;
        if (request.getCookies() != null) {
            for (Cookie cookie : request.getCookies()) {
                OptionalLong value = cookie.getName().equals(COOKIE)
                        ? Lsn.parse(cookie.getValue().replace('-', '/'))
                        : OptionalLong.empty();
                if (value.isPresent() && (found.isEmpty() || value.getAsLong() > found.getAsLong())) {
                    found = value;
                }
            }
        }
        return found;
    }

    private void count(Route route, Reason reason) {
        meters.counter(
                        COUNTER,
                        "route",
                        route.name().toLowerCase(Locale.ROOT),
                        "reason",
                        reason.name().toLowerCase(Locale.ROOT))
                .increment();
    }

    private static Set<String> directives(HttpServletRequest request) {
        return Set.copyOf(directives(Collections.list(request.getHeaders("Cache-Control"))));
    }

    private static List<String> directives(List<String> headers) {
        return headers.stream()
                .flatMap(header -> List.of(header.split(",")).stream())
                .map(part -> part.strip().toLowerCase(Locale.ROOT))
                .distinct()
                .toList();
    }

    /**
     * HAPI cuts the result of a search with no-store at one page, with a wrong total and without a
     * link to the next. With offset paging nothing is stored anyway, so that the wish is granted.
     */
    private static final class WithoutNoStore extends HttpServletRequestWrapper {

        WithoutNoStore(HttpServletRequest request) {
            super(request);
        }

        @Override
        public String getHeader(String name) {
            if (!name.equalsIgnoreCase("Cache-Control")) {
                return super.getHeader(name);
            }
            Enumeration<String> left = getHeaders(name);
            return left.hasMoreElements() ? left.nextElement() : null;
        }

        @Override
        public Enumeration<String> getHeaders(String name) {
            Enumeration<String> all = super.getHeaders(name);
            if (!name.equalsIgnoreCase("Cache-Control")) {
                return all;
            }
            return Collections.enumeration(directives(Collections.list(all)).stream()
                    .filter(directive -> !directive.equals("no-store"))
                    .toList());
        }
    }
}
