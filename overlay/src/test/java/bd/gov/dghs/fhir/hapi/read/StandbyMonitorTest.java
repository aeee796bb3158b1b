// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.sql.SQLException;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class StandbyMonitorTest {

    private static final long SECOND = 1_000_000_000L;
    private static final String CLUSTER = "system 1";

    private final LagMeter lag = new LagMeter();
    private final AtomicInteger tried = new AtomicInteger();
    private volatile long now;
    private volatile boolean poolWorks = true;
    private volatile String primaryCluster = CLUSTER;
    private volatile StandbyMonitor.Reading reading = reading(10);
    private final Circuit circuit = new Circuit(() -> now, () -> {});
    private final StandbyMonitor monitor = new StandbyMonitor(
            new StandbyMonitor.Source() {
                @Override
                public StandbyMonitor.Reading read() throws SQLException {
                    if (reading == null) {
                        throw new SQLException("refused\n  really", "08001");
                    }
                    return reading;
                }

                @Override
                public void tryPool(Lsn reached) throws SQLException {
                    tried.incrementAndGet();
                    if (!poolWorks) {
                        throw new SQLException("no connection");
                    }
                }

                @Override
                public void close() {}
            },
            () -> primaryCluster,
            lag,
            circuit,
            Duration.ofSeconds(10),
            () -> now);

    @AfterEach
    void close() {
        monitor.close();
    }

    @Test
    void aStandbyThatIsCloseBehindIsUp() {
        lag.primaryAt(0, new Lsn(10));
        monitor.probe();
        assertTrue(circuit.state().isUp());
        assertEquals(0, monitor.lag().orElseThrow().seconds());
    }

    @Test
    void itIsLeftOutWhileItLags() {
        lag.primaryAt(0, new Lsn(10));
        lag.primaryAt(SECOND, new Lsn(20));
        now = 11 * SECOND;
        lag.primaryAt(now, new Lsn(20));
        monitor.probe();
        assertTrue(circuit.state().isUp());
        now = 12 * SECOND;
        monitor.probe();
        assertEquals(
                new Circuit.State(Circuit.Kind.LAGGING, "it is 11 s behind, and 10 s are allowed"), circuit.state());
        assertEquals(11, monitor.lag().orElseThrow().seconds());
        reading = reading(20);
        monitor.probe();
        assertTrue(circuit.state().isUp());
    }

    @Test
    void anUnknownLagIsNotZeroAndIsBorneAsLongAsALag() {
        lag.primaryAt(0, new Lsn(10));
        monitor.probe();
        now = 9 * SECOND;
        monitor.probe();
        assertTrue(monitor.lag().isEmpty());
        assertTrue(circuit.state().isUp());
        now = 11 * SECOND;
        monitor.probe();
        assertEquals(Circuit.Kind.OUT, circuit.state().kind());
    }

    @Test
    void whoIsNoStandbyOfThisPrimaryIsLeftOut() {
        lag.primaryAt(0, new Lsn(10));
        primaryCluster = null;
        assertOut("has not answered yet");
        primaryCluster = CLUSTER;
        reading = new StandbyMonitor.Reading(false, new Lsn(10), CLUSTER);
        assertOut("not in recovery");
        reading = new StandbyMonitor.Reading(true, new Lsn(10), "system 2");
        assertOut("not a copy");
        reading = new StandbyMonitor.Reading(true, null, CLUSTER);
        assertOut("replayed nothing");
        reading = null;
        assertOut("does not answer: refused; really");
        assertTrue(monitor.lag().isEmpty());
    }

    @Test
    void itComesBackWhenAReadWouldGetThrough() {
        lag.primaryAt(0, new Lsn(10));
        poolWorks = false;
        assertOut("no connection");
        poolWorks = true;
        monitor.probe();
        assertTrue(circuit.state().isUp());
        monitor.probe();
        assertEquals(2, tried.get(), "while it is up, the requests try the pool");
    }

    @Test
    void aReadWaitsUntilTheStandbyIsFarEnough() throws Exception {
        lag.primaryAt(0, new Lsn(20));
        monitor.probe();
        assertTrue(monitor.await(new Lsn(10), System.nanoTime()), "what is replayed is not waited for");
        monitor.start();
        CompletableFuture<Boolean> reached = CompletableFuture.supplyAsync(() -> await(new Lsn(20)));
        reading = reading(19);
        Thread.sleep(20);
        assertFalse(reached.isDone());
        reading = reading(20);
        assertTrue(reached.get(20, TimeUnit.SECONDS));
    }

    @Test
    void whereOneHasWaitedInVainTheNextDoNotUntilTheStandbyMoves() throws Exception {
        lag.primaryAt(0, new Lsn(20));
        monitor.probe();
        assertFalse(monitor.await(new Lsn(20), System.nanoTime() + SECOND / 100));
        long began = System.nanoTime();
        assertFalse(monitor.await(new Lsn(20), began + 60 * SECOND));
        assertTrue(System.nanoTime() - began < 30 * SECOND);
        reading = reading(11);
        monitor.probe();
        reading = reading(20);
        monitor.start();
        assertTrue(await(new Lsn(20)));
    }

    @Test
    void nobodyWaitsForAStandbyThatIsGone() throws Exception {
        lag.primaryAt(0, new Lsn(20));
        monitor.probe();
        monitor.start();
        CompletableFuture<Boolean> reached = CompletableFuture.supplyAsync(() -> await(new Lsn(20)));
        reading = null;
        assertFalse(reached.get(10, TimeUnit.SECONDS));
        assertFalse(monitor.await(Lsn.ZERO, System.nanoTime() + 60 * SECOND));
    }

    private boolean await(Lsn mark) {
        try {
            return monitor.await(mark, System.nanoTime() + 20 * SECOND);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    private void assertOut(String why) {
        monitor.probe();
        assertEquals(Circuit.Kind.OUT, circuit.state().kind());
        assertTrue(circuit.state().why().contains(why), circuit.state().why());
    }

    private static StandbyMonitor.Reading reading(long replayed) {
        return new StandbyMonitor.Reading(true, new Lsn(replayed), CLUSTER);
    }
}
