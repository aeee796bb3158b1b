// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.api.Test;

class StandbyTest {

    private static final long SECOND = 1_000_000_000L;

    private final AtomicLong clock = new AtomicLong();
    private final Played played = new Played();
    private final Standby standby = new Standby(played, 10, clock::get);

    @Test
    void itIsOutUntilItWasSeen() throws Exception {
        assertFalse(standby.isUp());
        assertFalse(standby.awaits(0, 1000));
        assertTrue(Double.isNaN(standby.lagSeconds()));

        standby.look();

        assertTrue(standby.isUp());
        assertTrue(standby.awaits(100, 0));
        assertFalse(standby.awaits(101, 0));
    }

    @Test
    void aFailedLookLeavesItOutAndAGoodOneBringsItBack() {
        standby.look();
        played.failure = new SQLException("it was promoted");
        standby.look();
        assertFalse(standby.isUp());
        assertEquals("it was promoted", standby.why());
        standby.primaryAt(100);
        assertTrue(Double.isNaN(standby.lagSeconds()), "a cut link has no lag of 0");

        played.failure = null;
        standby.look();
        assertTrue(standby.isUp());
    }

    @Test
    void theLagIsTheTimeSinceThePrimaryWasThere() {
        standby.look();
        standby.primaryAt(100);
        assertEquals(0, standby.lagSeconds());
        standby.primaryAt(200);
        clock.addAndGet(4 * SECOND);
        standby.primaryAt(300);
        assertEquals(4, standby.lagSeconds());
        assertEquals(200, standby.lagBytes());

        played.standby = 200;
        standby.look();
        assertEquals(0, standby.lagSeconds());

        clock.addAndGet(11 * SECOND);
        standby.look();
        assertFalse(standby.isUp());
        assertTrue(standby.isLagging());
        played.standby = 300;
        standby.look();
        assertTrue(standby.isUp());
    }

    @Test
    void anIdlePrimaryMakesNoLag() {
        standby.look();
        standby.primaryAt(100);
        clock.addAndGet(3600 * SECOND);
        standby.primaryAt(100);
        standby.look();
        assertTrue(standby.isUp());
        assertEquals(0, standby.lagSeconds());
    }

    @Test
    void someFailedReadsInARowLeaveItOutForAWhile() {
        standby.look();
        standby.failed();
        standby.failed();
        standby.succeeded();
        standby.failed();
        standby.failed();
        assertTrue(standby.isUp());
        standby.failed();
        assertFalse(standby.isUp());
        standby.look();
        assertFalse(standby.isUp(), "that it answers a question is not yet that it serves");
        clock.addAndGet(Standby.HELD_OUT_NS);
        standby.look();
        assertTrue(standby.isUp());
    }

    @Test
    void whoWaitsIsWokenByThePositionAndByItsGoing() throws Exception {
        Standby real = new Standby(played, 10, System::nanoTime);
        real.look();
        for (boolean reached : new boolean[] {true, false}) {
            CompletableFuture<Boolean> waiting = CompletableFuture.supplyAsync(() -> {
                try {
                    return real.awaits(150, 20_000);
                } catch (InterruptedException e) {
                    throw new IllegalStateException(e);
                }
            });
            if (reached) {
                played.standby = 150;
                real.look();
            } else {
                played.failure = new SQLException("gone");
                real.look();
            }
            assertEquals(reached, waiting.get(10, TimeUnit.SECONDS));
            played.standby = 100;
            if (reached) {
                real.look();
            }
        }
    }

    @Test
    void theThreadThatLooksIsWokenByWhoWaits() throws Exception {
        Standby real = new Standby(played, 10, System::nanoTime);
        real.look();
        CompletableFuture<Void> paused = CompletableFuture.runAsync(() -> {
            try {
                real.pause(60_000, 1);
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            }
        });
        assertFalse(real.awaits(150, 300));
        paused.get(10, TimeUnit.SECONDS);
    }

    @Test
    void whoAskTogetherAreAnsweredByOneQuestionThatWasPutAfterAllOfThemCame() throws Exception {
        var threads = Executors.newCachedThreadPool();
        CountDownLatch first = new CountDownLatch(1);
        CountDownLatch go = new CountDownLatch(1);
        AtomicInteger asked = new AtomicInteger();
        Positions slow = new Played() {
            @Override
            public long primary() {
                int number = asked.incrementAndGet();
                if (number == 1) {
                    first.countDown();
                    try {
                        go.await();
                    } catch (InterruptedException e) {
                        throw new IllegalStateException(e);
                    }
                }
                return number;
            }
        };
        PrimaryPosition primary = new PrimaryPosition(slow, standby, threads);
        List<CompletableFuture<Long>> answers = new ArrayList<>();
        answers.add(ask(primary, threads));
        first.await();
        for (int i = 0; i < 20; i++) {
            answers.add(ask(primary, threads));
        }
        // All of them have come before the first answer is there.
        Thread.sleep(200);
        go.countDown();

        assertEquals(1, answers.get(0).get(10, TimeUnit.SECONDS));
        for (CompletableFuture<Long> answer : answers.subList(1, answers.size())) {
            assertEquals(2, answer.get(10, TimeUnit.SECONDS));
        }
        assertEquals(2, asked.get());
        threads.shutdownNow();
    }

    private static CompletableFuture<Long> ask(PrimaryPosition primary, java.util.concurrent.Executor threads) {
        return CompletableFuture.supplyAsync(
                () -> {
                    try {
                        return primary.ask(10_000);
                    } catch (SQLException | InterruptedException e) {
                        throw new IllegalStateException(e);
                    }
                },
                threads);
    }

    /** Two servers that are played. */
    static class Played implements Positions {

        volatile long standby = 100;
        volatile long primary = 100;
        volatile SQLException failure;
        volatile SQLException primaryFailure;

        @Override
        public long primary() throws SQLException {
            if (primaryFailure != null) {
                throw primaryFailure;
            }
            return primary;
        }

        @Override
        public long standby() throws SQLException {
            if (failure != null) {
                throw failure;
            }
            return standby;
        }

        @Override
        public void close() {
            // Nothing is open.
        }
    }
}
