// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class LsnTest {

    private static final long SEGMENT = 16 << 20;

    @ParameterizedTest
    @ValueSource(strings = {"0/0", "0/3000060", "16/B374D848", "FFFFFFFF/FFFFFFFF"})
    void whatIsReadIsWrittenTheSame(String text) {
        assertEquals(text, lsn(text).toString());
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "/", "0/", "1/123456789", "0/G", "-1/0", "0/0 ", "0/0; DROP", "primary", "0x1/0"})
    void whatIsNoPositionIsNotRead(String text) {
        assertTrue(Lsn.parse(text).isEmpty());
    }

    @Test
    void positionsHaveNoSign() {
        assertTrue(lsn("FFFFFFFF/0").reaches(lsn("7FFFFFFF/FFFFFFFF")));
        assertFalse(lsn("7FFFFFFF/FFFFFFFF").reaches(lsn("FFFFFFFF/0")));
        assertTrue(lsn("1/0").reaches(lsn("1/0")));
        assertEquals(0x20, lsn("0/FFFFFFF0").bytesBefore(lsn("1/10")));
        assertEquals(0, lsn("1/10").bytesBefore(lsn("0/FFFFFFF0")));
    }

    @ParameterizedTest
    @CsvSource({
        // Behind the short header of a page, and the long one of a segment.
        "0/3002018, 0/3002000",
        "0/4000028, 0/4000000",
        "FFFFFFFF/FF002018, FFFFFFFF/FF002000",
        // In a page that begins no segment, this is 16 bytes into the records.
        "0/3002028, 0/3002028",
        "0/3002000, 0/3002000",
        "0/3002020, 0/3002020",
    })
    void aPagesHeaderIsNotWaitedFor(String inserted, String replayed) {
        assertEquals(lsn(replayed), lsn(inserted).withoutPageHeader(SEGMENT));
    }

    @Test
    void aSegmentsHeaderIsOneOnlyWhereASegmentBegins() {
        assertEquals(lsn("0/1000028"), lsn("0/1000028").withoutPageHeader(64 << 20));
        assertEquals(lsn("0/4000000"), lsn("0/4000028").withoutPageHeader(64 << 20));
    }

    static Lsn lsn(String text) {
        return Lsn.parse(text).orElseThrow();
    }
}
