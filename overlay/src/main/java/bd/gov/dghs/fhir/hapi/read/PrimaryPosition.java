// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.sql.SQLException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Asks the primary how far it is, once for all who ask together. Each gets an answer to a question
 * that was put after it had come: what was acknowledged before then is before that position.
 */
class PrimaryPosition {

    private final Positions positions;
    private final Standby standby;
    private final Executor executor;
    private CompletableFuture<Long> next;
    private boolean asking;

    PrimaryPosition(Positions positions, Standby standby, Executor executor) {
        this.positions = positions;
        this.standby = standby;
        this.executor = executor;
    }

    /** The position; throws when there was no answer in time. */
    long ask(long timeoutMs) throws SQLException, InterruptedException {
        CompletableFuture<Long> mine;
        synchronized (this) {
            if (next == null) {
                next = new CompletableFuture<>();
            }
            mine = next;
            if (!asking) {
                asking = true;
                executor.execute(this::answer);
            }
        }
        try {
            return mine.get(timeoutMs, TimeUnit.MILLISECONDS);
        } catch (TimeoutException e) {
            throw new SQLException("the primary did not tell its position within " + timeoutMs + " ms", e);
        } catch (ExecutionException e) {
            throw new SQLException("the primary did not tell its position: " + e.getCause().getMessage(), e.getCause());
        }
    }

    private void answer() {
        while (true) {
            CompletableFuture<Long> asked;
            synchronized (this) {
                asked = next;
                next = null;
                if (asked == null) {
                    asking = false;
                    return;
                }
            }
            try {
                long position = positions.primary();
                standby.primaryAt(position);
                asked.complete(position);
            } catch (SQLException | RuntimeException e) {
                asked.completeExceptionally(e);
            }
        }
    }
}
