// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.NullSource;
import org.junit.jupiter.params.provider.ValueSource;

class LsnTest {

    @ParameterizedTest
    @ValueSource(strings = {"0/0", "0/3039588", "16/B374D848", "7FFFFFFF/FFFFFFFF"})
    void whatPostgresqlWritesIsReadAndWrittenAgain(String text) {
        assertEquals(text, Lsn.text(Lsn.parse(text).getAsLong()));
    }

    @ParameterizedTest
    @NullSource
    @ValueSource(strings = {"", "0", "/", "0/", "g/0", "0/0/0", "-1/0", "FFFFFFFF/0", "123456789/0", " 0/0", "0/0\n", "0-0"})
    void anythingElseIsNone(String text) {
        assertTrue(Lsn.parse(text).isEmpty());
    }

    @Test
    void behindTheHeaderOfAnEmptyPageIsItsBeginning() {
        assertEquals(8192, Lsn.reached(8192 + 24));
        assertEquals(16_777_216, Lsn.reached(16_777_216 + 40));
        assertEquals(8192 + 25, Lsn.reached(8192 + 25));
        assertEquals(8192, Lsn.reached(8192));
    }
}
