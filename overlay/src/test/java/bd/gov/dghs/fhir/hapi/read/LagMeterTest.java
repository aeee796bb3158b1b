// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static bd.gov.dghs.fhir.hapi.read.LsnTest.lsn;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Optional;
import org.junit.jupiter.api.Test;

class LagMeterTest {

    private static final long SECOND = 1_000_000_000L;

    private final LagMeter meter = new LagMeter();

    @Test
    void nothingIsKnownWithoutThePrimary() {
        assertTrue(meter.of(lsn("0/10"), 0).isEmpty());
        meter.primaryAt(0, lsn("0/10"));
        assertTrue(meter.of(lsn("0/10"), 5 * SECOND).isPresent());
        assertTrue(meter.of(lsn("0/10"), 6 * SECOND).isEmpty(), "the primary has not answered for long");
    }

    @Test
    void anIdlePrimaryIsNoLagHoweverLong() {
        for (int second = 0; second < 100; second++) {
            meter.primaryAt(second * SECOND, lsn("0/10"));
        }
        assertEquals(lag(0, 0), meter.of(lsn("0/10"), 100 * SECOND));
    }

    @Test
    void theLagIsTheTimeSinceThePrimaryWasFurther() {
        meter.primaryAt(0, lsn("0/10"));
        meter.primaryAt(3 * SECOND, lsn("0/20"));
        meter.primaryAt(4 * SECOND, lsn("0/30"));
        // A link that is cut does not change what the standby has replayed, and the time goes on.
        assertEquals(lag(4, 0x20), meter.of(lsn("0/10"), 7 * SECOND));
        assertEquals(lag(5, 0x20), meter.of(lsn("0/18"), 8 * SECOND).map(lag -> new LagMeter.Lag(lag.seconds(), 0x20)));
        assertEquals(lag(4, 0x10), meter.of(lsn("0/20"), 8 * SECOND));
        assertEquals(lag(0, 0), meter.of(lsn("0/30"), 8 * SECOND));
        // Started again, it is a little before where it was.
        assertEquals(lag(4, 0x10), meter.of(lsn("0/20"), 8 * SECOND));
    }

    @Test
    void hoursBehindNeedNoMoreMemoryAndAreStillHours() {
        for (int second = 0; second < 100_000; second++) {
            meter.primaryAt(second * SECOND, new Lsn(second + 1));
        }
        assertEquals(99_999, meter.of(Lsn.ZERO, 99_999 * SECOND).orElseThrow().seconds());
    }

    @Test
    void anEarlierStateOfThePrimaryIsAnotherHistory() {
        meter.primaryAt(0, lsn("9/0"));
        meter.primaryAt(SECOND, lsn("1/0"));
        assertEquals(lag(0, 0), meter.of(lsn("1/0"), 2 * SECOND));
    }

    private static Optional<LagMeter.Lag> lag(double seconds, long bytes) {
        return Optional.of(new LagMeter.Lag(seconds, bytes));
    }
}
