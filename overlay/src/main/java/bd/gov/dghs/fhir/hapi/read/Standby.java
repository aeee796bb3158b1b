// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.sql.SQLException;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.function.LongSupplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * What is known of the standby: whether reads may go to it, and how far it is.
 *
 * <p>It is looked at once a second, and every few milliseconds while a read waits for it. It is left
 * out when a look fails, when it is behind for longer than allowed, and for some seconds after
 * several reads in a row have failed on it; the next good look brings it back. Nobody waits for a
 * standby that is left out.
 */
class Standby {

    private static final Logger LOG = LoggerFactory.getLogger(Standby.class);
    static final int FAILURES = 3;
    static final long HELD_OUT_NS = 5_000_000_000L;
    private static final long UNKNOWN = -1;
    // Of a standby that is away for a day only the first counts.
    private static final int MOST_SAMPLES = 1000;

    private record Sample(long time, long lsn) {}

    private final Positions positions;
    private final LongSupplier clock;
    private final long maxLagNs;
    // Positions of the primary that the standby has not reached yet, oldest first.
    private final Deque<Sample> ahead = new ArrayDeque<>();
    private long replayed = UNKNOWN;
    private long known = UNKNOWN;
    private boolean up;
    private String why = "not looked at yet";
    private int failures;
    private long outUntil = Long.MIN_VALUE;
    private int waiting;

    Standby(Positions positions, int maxLagSeconds, LongSupplier clock) {
        this.positions = positions;
        this.maxLagNs = maxLagSeconds * 1_000_000_000L;
        this.clock = clock;
    }

    /** Looks at the standby once; never throws. */
    void look() {
        long position;
        try {
            position = positions.standby();
        } catch (SQLException e) {
            out(e.getMessage());
            return;
        }
        synchronized (this) {
            replayed = position;
            while (!ahead.isEmpty() && ahead.peekFirst().lsn() <= replayed) {
                ahead.removeFirst();
            }
            long now = clock.getAsLong();
            if (now < outUntil) {
                return;
            }
            long lag = lagNs(now);
            if (lag > maxLagNs) {
                out("it is " + lag / 1_000_000_000L + " s behind the primary");
                return;
            }
            if (!up) {
                LOG.info("Reads go to the standby again, which is at {}.", Lsn.text(replayed));
            }
            up = true;
            why = "";
            notifyAll();
        }
    }

    /** Remembers a position that the primary has told now. */
    synchronized void primaryAt(long lsn) {
        known = Math.max(known, lsn);
        if (lsn > replayed && (ahead.isEmpty() || lsn > ahead.peekLast().lsn())) {
            long now = clock.getAsLong();
            // A busy primary tells a new position with every read: one in a tenth of a second is enough to tell the lag.
            if (ahead.isEmpty() || ahead.size() < MOST_SAMPLES && now - ahead.peekLast().time() > 100_000_000L) {
                ahead.addLast(new Sample(now, lsn));
            }
        }
    }

    private synchronized void out(String reason) {
        if (up || !reason.equals(why)) {
            LOG.warn("Reads go to the primary: the standby is left out, {}.", reason);
        }
        up = false;
        why = reason;
        notifyAll();
    }

    /** Waits until the standby has replayed a position, and tells whether it has. */
    synchronized boolean awaits(long lsn, long timeoutMs) throws InterruptedException {
        long end = clock.getAsLong() + timeoutMs * 1_000_000L;
        if (up && replayed < lsn) {
            // Once, for the thread that looks: those who wait would wake each other for ever.
            notifyAll();
        }
        waiting++;
        try {
            while (up && replayed < lsn) {
                long left = end - clock.getAsLong();
                if (left <= 0) {
                    return false;
                }
                wait(Math.max(1, left / 1_000_000L));
            }
            return up;
        } finally {
            waiting--;
        }
    }

    /** For the thread that looks: sleeps until the next look is due, earlier when somebody waits. */
    synchronized void pause(long longMs, long shortMs) throws InterruptedException {
        long end = System.nanoTime() + longMs * 1_000_000L;
        if (waiting == 0) {
            long left;
            while (waiting == 0 && (left = (end - System.nanoTime()) / 1_000_000L) > 0) {
                wait(left);
            }
        } else {
            long shortEnd = System.nanoTime() + shortMs * 1_000_000L;
            long left;
            while ((left = (shortEnd - System.nanoTime()) / 1_000_000L) > 0) {
                wait(left);
            }
        }
    }

    synchronized void failed() {
        failures++;
        if (failures >= FAILURES) {
            failures = 0;
            outUntil = clock.getAsLong() + HELD_OUT_NS;
            out(FAILURES + " reads in a row have failed on it");
        }
    }

    synchronized void succeeded() {
        failures = 0;
    }

    synchronized boolean isUp() {
        return up;
    }

    synchronized boolean isLagging() {
        return !up && lagNs(clock.getAsLong()) > maxLagNs;
    }

    synchronized String why() {
        return why;
    }

    private long lagNs(long now) {
        return ahead.isEmpty() ? 0 : now - ahead.peekFirst().time();
    }

    /** Seconds since the primary passed the standby's position, NaN as long as that is not known. */
    synchronized double lagSeconds() {
        if (replayed == UNKNOWN || known == UNKNOWN) {
            return Double.NaN;
        }
        if (!up && ahead.isEmpty()) {
            // Nothing is known to be missing, but nobody has looked: that is not the same as no lag.
            return Double.NaN;
        }
        return lagNs(clock.getAsLong()) / 1e9;
    }

    synchronized double lagBytes() {
        return replayed == UNKNOWN || known == UNKNOWN || !up && known <= replayed ? Double.NaN : Math.max(0, known - replayed);
    }
}
