// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A position in PostgreSQL's write-ahead log; it has no sign, whatever Java thinks. */
record Lsn(long position) implements Comparable<Lsn> {

    static final Lsn ZERO = new Lsn(0);

    private static final Pattern TEXT = Pattern.compile("([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})");
    private static final int PAGE = 8192;
    private static final int SHORT_HEADER = 24;
    private static final int LONG_HEADER = 40;

    static Optional<Lsn> parse(String text) {
        Matcher parts = TEXT.matcher(text);
        if (!parts.matches()) {
            return Optional.empty();
        }
        return Optional.of(new Lsn(Long.parseLong(parts.group(1), 16) << 32 | Long.parseLong(parts.group(2), 16)));
    }

    /**
     * The place where the log ends for a standby that has replayed all of it. When a record fills its page
     * to the end, the primary names the place behind the next page's header, where the next record will
     * begin, and the standby the end of the page.
     *
     * <p>The long header stands at the beginning of a segment only: elsewhere, 40 bytes into a page can be
     * the end of a record.
     */
    Lsn withoutPageHeader(long segmentSize) {
        // The size of a page is a power of two.
        long pageOffset = position & (PAGE - 1);
        boolean shortHeader = pageOffset == SHORT_HEADER;
        boolean longHeader = segmentSize > 0 && Long.remainderUnsigned(position, segmentSize) == LONG_HEADER;
        return shortHeader || longHeader ? new Lsn(position - pageOffset) : this;
    }

    boolean reaches(Lsn mark) {
        return compareTo(mark) >= 0;
    }

    long bytesBefore(Lsn later) {
        return reaches(later) ? 0 : later.position - position;
    }

    @Override
    public int compareTo(Lsn other) {
        return Long.compareUnsigned(position, other.position);
    }

    @Override
    public String toString() {
        return String.format("%X/%X", position >>> 32, position & 0xFFFFFFFFL);
    }
}
