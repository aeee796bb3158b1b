// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.sql.SQLException;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Knows how far the primary is.
 *
 * <p>One thread asks, with one connection. All who want to know while it asks get the answer to the next
 * question, which begins after they came: so an answer holds every write that was acknowledged before, and
 * a hundred readers cost the primary two statements.
 */
final class PrimaryPosition implements AutoCloseable {

    private static final Logger LOG = LoggerFactory.getLogger(PrimaryPosition.class);
    private static final Duration IDLE = Duration.ofSeconds(1);

    private final Source source;
    private final LagMeter lag;
    private final Object lock = new Object();
    private final Thread thread = new Thread(this::run, "read-primary-position");
    private CompletableFuture<Lsn> next = new CompletableFuture<>();
    private boolean wanted;
    private boolean closed;
    private volatile String cluster;

    /** @param cluster see {@link Link#cluster()} */
    record Answer(Lsn position, String cluster) {}

    interface Source {
        Answer ask() throws SQLException;

        void close();
    }

    PrimaryPosition(Source source, LagMeter lag) {
        this.source = source;
        this.lag = lag;
        thread.setDaemon(true);
    }

    void start() {
        thread.start();
    }

    /** The end of the primary's log at a moment after this call began; nothing if the primary does not say. */
    Optional<Lsn> ask(Duration longest) {
        CompletableFuture<Lsn> answer;
        synchronized (lock) {
            answer = next;
            wanted = true;
            lock.notifyAll();
        }
        try {
            return Optional.of(answer.get(longest.toNanos(), TimeUnit.NANOSECONDS));
        } catch (ExecutionException | TimeoutException e) {
            return Optional.empty();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            return Optional.empty();
        }
    }

    /** Null before the primary answered for the first time. */
    String cluster() {
        return cluster;
    }

    @Override
    public void close() {
        synchronized (lock) {
            closed = true;
            lock.notifyAll();
        }
    }

    private void run() {
        boolean answered = true;
        try {
            for (CompletableFuture<Lsn> round = nextRound(); round != null; round = nextRound()) {
                long began = System.nanoTime();
                try {
                    Answer answer = source.ask();
                    cluster = answer.cluster();
                    lag.primaryAt(began, answer.position());
                    round.complete(answer.position());
                    answered = true;
                } catch (SQLException | RuntimeException e) {
                    round.completeExceptionally(e);
                    if (answered) {
                        LOG.warn("The primary does not say how far it is: {}", e.getMessage());
                    }
                    answered = false;
                }
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        } finally {
            source.close();
        }
    }

    private CompletableFuture<Lsn> nextRound() throws InterruptedException {
        synchronized (lock) {
            if (!wanted && !closed) {
                // Woken for no reason, it asks early: that does no harm.
                lock.wait(IDLE.toMillis());
            }
            CompletableFuture<Lsn> round = next;
            next = new CompletableFuture<>();
            wanted = false;
            return closed ? null : round;
        }
    }
}
