// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import io.micrometer.core.instrument.Counter;
import io.micrometer.core.instrument.Gauge;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.Timer;
import java.util.EnumMap;
import java.util.Map;

/** What Prometheus sees of the read routing. */
final class ReadMetrics {

    private final Map<Reason, Counter> reads = new EnumMap<>(Reason.class);
    private final Timer wait;

    ReadMetrics(MeterRegistry meters, Circuit circuit, StandbyMonitor monitor) {
        // All of them from the start: a rate over a series that begins with its first event misses that event.
        for (Reason reason : Reason.values()) {
            reads.put(
                    reason,
                    Counter.builder("fhir.read.requests")
                            .description("Reads by where they were served from, and why")
                            .tag("route", reason.route())
                            .tag("reason", reason.label())
                            .register(meters));
        }
        wait = Timer.builder("fhir.read.wait")
                .description("What reads waited to know that the standby is far enough, or is not")
                .register(meters);
        Gauge.builder("fhir.read.standby.up", circuit, state -> state.state().isUp() ? 1 : 0)
                .description("1 while reads go to the standby")
                .register(meters);
        Gauge.builder("fhir.read.standby.lag.seconds", monitor, seen -> seen.lag()
                        .map(LagMeter.Lag::seconds)
                        .orElse(Double.NaN))
                .description("For how long the primary has been further than the standby; NaN while unknown")
                .register(meters);
        Gauge.builder("fhir.read.standby.lag.bytes", monitor, seen -> seen.lag()
                        .map(lag -> (double) lag.bytes())
                        .orElse(Double.NaN))
                .description("How much of the primary's log the standby has not replayed; NaN while unknown")
                .register(meters);
    }

    /** There is one in every server that holds these classes: that is how their presence is seen from outside. */
    static void enabled(MeterRegistry meters, boolean on) {
        Gauge.builder("fhir.read.routing.enabled", () -> on ? 1 : 0)
                .description("1 if HAPI_DATASOURCE_READ_URL is set")
                .register(meters);
    }

    void count(Reason reason) {
        reads.get(reason).increment();
    }

    Timer waiting() {
        return wait;
    }
}
