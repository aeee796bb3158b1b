// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.util.function.LongSupplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Whether the standby takes reads. What keeps it out is a probe or a row of requests; what lets it in is a probe. */
final class Circuit {

    private static final Logger LOG = LoggerFactory.getLogger(Circuit.class);
    private static final int FAILURES_IN_A_ROW = 3;

    private final LongSupplier nanos;
    private final Runnable whenOut;
    private State state = new State(Kind.OUT, "it has not been probed yet");
    private long leftAt;
    private int failures;

    enum Kind {
        UP,
        LAGGING,
        OUT
    }

    /** @param why the reason why it is left out; empty when it is not */
    record State(Kind kind, String why) {

        boolean isUp() {
            return kind == Kind.UP;
        }
    }

    /** @param whenOut frees those who wait for the standby; not called for a lag, which they need not fear */
    Circuit(LongSupplier nanos, Runnable whenOut) {
        this.nanos = nanos;
        this.whenOut = whenOut;
        leftAt = nanos.getAsLong();
    }

    synchronized State state() {
        return state;
    }

    /** A probe that began before the standby was left out says nothing about the time after. */
    synchronized void good(long probeBegan) {
        if (!state.isUp() && probeBegan - leftAt >= 0) {
            failures = 0;
            become(new State(Kind.UP, ""));
        }
    }

    synchronized void lagging(String why) {
        become(new State(Kind.LAGGING, why));
    }

    synchronized void bad(String why) {
        become(new State(Kind.OUT, why));
    }

    synchronized void requestServed() {
        failures = 0;
    }

    synchronized void requestFailed() {
        failures++;
        if (state.isUp() && failures >= FAILURES_IN_A_ROW) {
            become(new State(Kind.OUT, failures + " requests in a row could not reach it"));
        }
    }

    private void become(State next) {
        if (next.kind() != state.kind()) {
            if (next.isUp()) {
                LOG.info("Reads go to the standby");
            } else {
                LOG.warn("Reads go to the primary; the standby is left out: {}", next.why());
            }
        }
        if (state.isUp() && !next.isUp()) {
            leftAt = nanos.getAsLong();
        }
        boolean goesOut = next.kind() == Kind.OUT && state.kind() != Kind.OUT;
        state = next;
        if (goesOut) {
            whenOut.run();
        }
    }
}
