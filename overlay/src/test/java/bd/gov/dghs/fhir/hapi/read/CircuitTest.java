// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class CircuitTest {

    private long now = Long.MAX_VALUE - 5;
    private int freed;
    private final Circuit circuit = new Circuit(() -> now, () -> freed++);

    @BeforeEach
    void up() {
        assertFalse(circuit.state().isUp(), "nothing is known before the first probe");
        circuit.good(++now);
        assertTrue(circuit.state().isUp());
    }

    @Test
    void aFailedProbeLeavesItOutAndAGoodOneTakesItBack() {
        circuit.bad("gone");
        circuit.bad("gone");
        assertEquals(1, freed, "who waits for it is freed once");
        assertEquals(new Circuit.State(Circuit.Kind.OUT, "gone"), circuit.state());
        circuit.good(++now);
        assertEquals(new Circuit.State(Circuit.Kind.UP, ""), circuit.state());
    }

    @Test
    void lagIsAnotherReason() {
        circuit.lagging("12 s");
        assertEquals(Circuit.Kind.LAGGING, circuit.state().kind());
        assertEquals(0, freed);
        circuit.good(++now);
        assertTrue(circuit.state().isUp());
    }

    @Test
    void threeRequestsInARowLeaveItOut() {
        circuit.requestFailed();
        circuit.requestFailed();
        circuit.requestServed();
        circuit.requestFailed();
        circuit.requestFailed();
        assertTrue(circuit.state().isUp());
        circuit.requestFailed();
        assertEquals(Circuit.Kind.OUT, circuit.state().kind());
        assertEquals(1, freed);
    }

    @Test
    void aProbeThatBeganBeforeItWasLeftOutSaysNothing() {
        long began = now;
        now += 10;
        circuit.requestFailed();
        circuit.requestFailed();
        circuit.requestFailed();
        circuit.good(began);
        assertFalse(circuit.state().isUp());
        circuit.good(++now);
        assertTrue(circuit.state().isUp());
        circuit.requestFailed();
        circuit.requestFailed();
        assertTrue(circuit.state().isUp(), "the count begins again");
    }
}
