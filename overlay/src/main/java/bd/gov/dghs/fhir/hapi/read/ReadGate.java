// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import jakarta.servlet.http.HttpServletRequest;
import java.time.Duration;
import java.util.Enumeration;
import java.util.Locale;
import java.util.Optional;
import org.springframework.http.HttpHeaders;

/** Decides for each read whether the standby serves it, and waits for the standby if that is worth it. */
final class ReadGate {

    private final ReadPaths paths;
    private final ReadSettings.Unmarked unmarked;
    private final Duration longestWait;
    private final Circuit circuit;
    private final StandbyMonitor monitor;
    private final PrimaryPosition primary;
    private final ReadMetrics metrics;

    /** @param mark how far the standby has to be, if it serves the read */
    record Decision(Reason reason, Lsn mark) {

        boolean isStandby() {
            return reason == Reason.OK;
        }
    }

    ReadGate(
            ReadPaths paths,
            ReadSettings settings,
            Circuit circuit,
            StandbyMonitor monitor,
            PrimaryPosition primary,
            ReadMetrics metrics) {
        this.paths = paths;
        this.unmarked = settings.unmarked();
        this.longestWait = settings.longestWait();
        this.circuit = circuit;
        this.monitor = monitor;
        this.primary = primary;
        this.metrics = metrics;
    }

    Decision decide(HttpServletRequest request) {
        if (!paths.canBeServedByAStandby(request)) {
            return primary(Reason.NOT_ROUTABLE);
        }
        if (wishesThePrimary(request)) {
            return primary(Reason.NO_CACHE);
        }
        Mark mark = Mark.of(request);
        if (mark.kind() == Mark.Kind.PRIMARY) {
            return primary(Reason.MARK_PRIMARY);
        }
        if (mark.kind() == Mark.Kind.UNREADABLE) {
            return primary(Reason.BAD_MARK);
        }
        if (mark.kind() == Mark.Kind.NONE && unmarked == ReadSettings.Unmarked.PRIMARY) {
            return primary(Reason.CONFIGURED);
        }
        if (!circuit.state().isUp()) {
            return leftOut();
        }
        long began = System.nanoTime();
        try {
            return waitFor(mark, began);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            return primary(Reason.MARK_TIMEOUT);
        } finally {
            metrics.waiting().record(Duration.ofNanos(System.nanoTime() - began));
        }
    }

    private Decision waitFor(Mark mark, long began) throws InterruptedException {
        Lsn needed = mark.position();
        if (mark.kind() == Mark.Kind.NONE && unmarked == ReadSettings.Unmarked.ASK) {
            Optional<Lsn> end = primary.ask(longestWait);
            if (end.isEmpty()) {
                return primary(Reason.ASK_FAILED);
            }
            needed = end.get();
        }
        if (monitor.await(needed, began + longestWait.toNanos())) {
            return new Decision(Reason.OK, needed);
        }
        return circuit.state().isUp() ? primary(Reason.MARK_TIMEOUT) : leftOut();
    }

    private Decision leftOut() {
        return primary(circuit.state().kind() == Circuit.Kind.LAGGING ? Reason.LAGGING : Reason.OUT);
    }

    private static Decision primary(Reason reason) {
        return new Decision(reason, Lsn.ZERO);
    }

    private static boolean wishesThePrimary(HttpServletRequest request) {
        Enumeration<String> values = request.getHeaders(HttpHeaders.CACHE_CONTROL);
        while (values.hasMoreElements()) {
            for (String directive : values.nextElement().split(",")) {
                if (directive.strip().toLowerCase(Locale.ROOT).equals("no-cache")) {
                    return true;
                }
            }
        }
        return false;
    }
}
