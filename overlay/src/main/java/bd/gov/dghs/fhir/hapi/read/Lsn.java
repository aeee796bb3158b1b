// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.util.OptionalLong;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A position in PostgreSQL's WAL, written as two hexadecimal numbers, and its place on a line. */
final class Lsn {

    private static final Pattern TEXT = Pattern.compile("([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})");
    private static final long PAGE = 8192;

    private Lsn() {}

    /** What a client sends is not to be trusted: anything but a position is none. */
    static OptionalLong parse(String text) {
        if (text == null) {
            return OptionalLong.empty();
        }
        Matcher parts = TEXT.matcher(text);
        if (!parts.matches()) {
            return OptionalLong.empty();
        }
        long value = Long.parseLong(parts.group(1), 16) << 32 | Long.parseLong(parts.group(2), 16);
        return value < 0 ? OptionalLong.empty() : OptionalLong.of(value);
    }

    static String text(long lsn) {
        return Long.toHexString(lsn >>> 32).toUpperCase() + "/" + Long.toHexString(lsn & 0xFFFFFFFFL).toUpperCase();
    }

    /**
     * Where a standby stands when it has replayed everything before {@code lsn}. The position of the
     * next record is told behind the header of a page that is still empty; a standby stays before it.
     */
    static long reached(long lsn) {
        long inPage = lsn % PAGE;
        return inPage == 24 || inPage == 40 ? lsn - inPage : lsn;
    }
}
