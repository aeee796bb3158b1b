// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Iterator;
import java.util.Optional;

/**
 * How far the standby is behind, measured against the primary's own position: what the standby says of
 * itself looks like no lag at all once its link is cut.
 */
final class LagMeter {

    /** The primary is asked once a second; what is older than this means that it did not answer. */
    private static final Duration STALE = Duration.ofSeconds(5);

    private static final int MOST_SAMPLES = 1024;

    private final Deque<Sample> samples = new ArrayDeque<>();
    private Sample newest;

    /** @param at in nanoseconds, before the primary was asked */
    private record Sample(long at, Lsn position) {}

    /** @param seconds for how long the primary has been further than the standby is */
    record Lag(double seconds, long bytes) {}

    synchronized void primaryAt(long at, Lsn position) {
        if (newest != null && !position.reaches(newest.position)) {
            // The primary was put back to an earlier state: what was seen before is another history.
            samples.clear();
        }
        if (newest == null || !newest.position.equals(position)) {
            samples.addLast(new Sample(at, position));
        }
        newest = new Sample(at, position);
        if (samples.size() > MOST_SAMPLES) {
            thinOut();
        }
    }

    /** Nothing while the primary's position is not known. */
    synchronized Optional<Lag> of(Lsn replayed, long now) {
        if (newest == null || now - newest.at > STALE.toNanos()) {
            return Optional.empty();
        }
        while (!samples.isEmpty() && replayed.reaches(samples.peekFirst().position)) {
            samples.removeFirst();
        }
        if (samples.isEmpty() && !replayed.reaches(newest.position)) {
            // A standby that starts again begins a little before where it was.
            samples.addLast(newest);
        }
        if (samples.isEmpty()) {
            return Optional.of(new Lag(0, 0));
        }
        double seconds = Math.max(0, now - samples.peekFirst().at) / 1e9;
        return Optional.of(new Lag(seconds, replayed.bytesBefore(newest.position)));
    }

    /** Keeps the first, which tells the lag, and every second one of the others. */
    private void thinOut() {
        Iterator<Sample> each = samples.iterator();
        for (int i = 0; each.hasNext(); i++) {
            each.next();
            if (i % 2 == 1) {
                each.remove();
            }
        }
    }
}
