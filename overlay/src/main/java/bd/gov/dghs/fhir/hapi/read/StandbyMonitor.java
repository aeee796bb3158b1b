// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.sql.SQLException;
import java.time.Duration;
import java.util.Locale;
import java.util.Optional;
import java.util.function.LongSupplier;
import java.util.function.Supplier;

/**
 * Knows how far the standby is, and tells the circuit whether it may be used.
 *
 * <p>One thread probes it, with one connection: once a second, and as fast as {@link #FAST} while a read
 * waits for the standby.
 */
final class StandbyMonitor implements AutoCloseable {

    private static final Duration IDLE = Duration.ofSeconds(1);
    private static final Duration FAST = Duration.ofMillis(2);

    private final Source source;
    private final Supplier<String> primaryCluster;
    private final LagMeter lag;
    private final Circuit circuit;
    private final Duration maxLag;
    private final LongSupplier nanos;
    private final Object lock = new Object();
    private final Thread thread = new Thread(this::run, "read-standby-monitor");
    private Lsn replayed;
    private Lsn stuckAt;
    private Optional<LagMeter.Lag> lastLag = Optional.empty();
    private long lagKnownAt;
    private int waiting;
    private boolean wanted;
    private boolean closed;

    /** @param cluster see {@link Link#cluster()} */
    record Reading(boolean inRecovery, Lsn replayed, String cluster) {}

    interface Source {
        Reading read() throws SQLException;

        /** Goes the way that a read goes. */
        void tryPool(Lsn reached) throws SQLException;

        void close();
    }

    StandbyMonitor(
            Source source,
            Supplier<String> primaryCluster,
            LagMeter lag,
            Circuit circuit,
            Duration maxLag,
            LongSupplier nanos) {
        this.source = source;
        this.primaryCluster = primaryCluster;
        this.lag = lag;
        this.circuit = circuit;
        this.maxLag = maxLag;
        this.nanos = nanos;
        thread.setDaemon(true);
    }

    void start() {
        thread.start();
    }

    /**
     * Waits until the standby has replayed its log up to the mark, it is left out, or the time is over. Where
     * one read has waited in vain, the next ones do not, until the standby has moved.
     */
    boolean await(Lsn mark, long deadline) throws InterruptedException {
        synchronized (lock) {
            if (circuit.state().isUp() && replayed != null && replayed.reaches(mark)) {
                return true;
            }
            waiting++;
            // Also for one who leaves at once: the next one finds out whether the standby has moved.
            wanted = true;
            // Once: waiters that woke each other would never sleep.
            lock.notifyAll();
            try {
                while (circuit.state().isUp()) {
                    if (replayed != null && replayed.reaches(mark)) {
                        return true;
                    }
                    long left = deadline - System.nanoTime();
                    if (left <= 0) {
                        stuckAt = replayed;
                    }
                    if (left <= 0 || replayed != null && replayed.equals(stuckAt)) {
                        return false;
                    }
                    // Rounded up, because no time at all would mean for ever.
                    lock.wait(left / 1_000_000 + 1);
                }
                return false;
            } finally {
                waiting--;
            }
        }
    }

    /** Nothing while the standby does not answer, or the primary does not. */
    Optional<LagMeter.Lag> lag() {
        synchronized (lock) {
            return lastLag;
        }
    }

    @Override
    public void close() {
        synchronized (lock) {
            closed = true;
            lock.notifyAll();
        }
    }

    private void run() {
        try {
            while (waitForTheNextProbe()) {
                probe();
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        } finally {
            source.close();
        }
    }

    private boolean waitForTheNextProbe() throws InterruptedException {
        long began = System.nanoTime();
        synchronized (lock) {
            while (!closed) {
                Duration pause = wanted || waiting > 0 ? FAST : IDLE;
                long left = pause.toNanos() - (System.nanoTime() - began);
                if (left <= 0) {
                    break;
                }
                lock.wait(left / 1_000_000 + 1);
            }
            wanted = false;
            return !closed;
        }
    }

    void probe() {
        long began = nanos.getAsLong();
        Reading reading = null;
        String failure = null;
        try {
            reading = source.read();
            failure = unfit(reading);
            if (failure == null && !circuit.state().isUp()) {
                // After an outage a pool takes seconds until it tries to connect again.
                source.tryPool(reading.replayed());
            }
        } catch (SQLException | RuntimeException e) {
            failure = "it does not answer: " + String.valueOf(e.getMessage()).replaceAll("\\s*\\R\\s*", "; ");
        }
        synchronized (lock) {
            replayed = failure == null ? reading.replayed() : null;
            long now = nanos.getAsLong();
            lastLag = replayed == null ? Optional.empty() : lag.of(replayed, now);
            if (failure != null) {
                circuit.bad(failure);
            } else {
                judge(began, now);
            }
            lock.notifyAll();
        }
    }

    private String unfit(Reading reading) {
        String primary = primaryCluster.get();
        if (primary == null) {
            return "the primary has not answered yet, so that it is not known whether it is its standby";
        }
        if (!reading.inRecovery()) {
            return "it is not in recovery: it is a primary, or was promoted to one";
        }
        if (!primary.equals(reading.cluster())) {
            return "it is not a copy of the primary (" + reading.cluster() + ", and the primary is " + primary + ")";
        }
        return reading.replayed() == null ? "it has replayed nothing" : null;
    }

    private void judge(long began, long now) {
        if (lastLag.isEmpty()) {
            if (now - lagKnownAt > maxLag.toNanos()) {
                circuit.bad("its lag is not known: the primary does not say how far it is");
            }
            return;
        }
        lagKnownAt = now;
        double seconds = lastLag.get().seconds();
        if (seconds > maxLag.toNanos() / 1e9) {
            circuit.lagging(String.format(
                    Locale.ROOT, "it is %.0f s behind, and %d s are allowed", seconds, maxLag.toSeconds()));
        } else {
            circuit.good(began);
        }
    }
}
