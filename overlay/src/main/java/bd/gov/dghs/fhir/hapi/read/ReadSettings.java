// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import bd.gov.dghs.fhir.hapi.SettingException;
import java.util.Locale;
import org.springframework.core.env.Environment;

/**
 * How reads go to a standby.
 *
 * @param poolSize connections to the standby
 * @param connectionTimeoutMs longest wait for one of them
 * @param socketTimeoutS longest silence of the standby within a statement
 * @param maxLagSeconds lag from which on the standby is left out
 * @param waitMs longest wait of one read until the standby has what the reader must see
 * @param unmarked what a read without a mark of its client's last write does
 * @param heldBytes how much of an answer is held back, so that the read can be repeated on the primary
 * @param pageSize resources on a page when the client names no number
 * @param maxPageSize most resources on a page
 */
record ReadSettings(
        int poolSize,
        long connectionTimeoutMs,
        int socketTimeoutS,
        int maxLagSeconds,
        int waitMs,
        Unmarked unmarked,
        int heldBytes,
        int pageSize,
        int maxPageSize) {

    enum Unmarked {
        /** The primary is asked how far it is, and the standby has to be there too. */
        ASK,
        /** The standby serves within its lag. */
        STANDBY,
        PRIMARY
    }

    static ReadSettings of(Environment environment) {
        int pageSize = number(environment, "HAPI_READ_PAGE_SIZE", 10, 1, 1000);
        int maxPageSize = number(environment, "HAPI_READ_MAX_PAGE_SIZE", 200, 1, 1000);
        if (pageSize > maxPageSize) {
            throw new SettingException("HAPI_READ_PAGE_SIZE is " + pageSize + ", which is more than HAPI_READ_MAX_PAGE_SIZE, "
                    + maxPageSize + ": lower the one or raise the other.");
        }
        return new ReadSettings(
                number(environment, "HAPI_DATASOURCE_READ_POOL_SIZE", 5, 1, 1000),
                number(environment, "HAPI_DATASOURCE_READ_CONNECTION_TIMEOUT_MS", 1000, 250, 60_000),
                number(environment, "HAPI_DATASOURCE_READ_SOCKET_TIMEOUT_S", 10, 1, 3600),
                number(environment, "HAPI_READ_MAX_LAG_SECONDS", 10, 1, 86_400),
                number(environment, "HAPI_READ_WAIT_MS", 200, 0, 60_000),
                unmarked(environment),
                number(environment, "HAPI_READ_HELD_BYTES", 65_536, 8192, 16_777_216),
                pageSize,
                maxPageSize);
    }

    /** Whether there is a standby to read from. Compose passes a variable that is not set as an empty one. */
    static boolean configured(Environment environment) {
        return !text(environment, "HAPI_DATASOURCE_READ_URL").isEmpty();
    }

    private static Unmarked unmarked(Environment environment) {
        String value = text(environment, "HAPI_READ_UNMARKED");
        try {
            return value.isEmpty() ? Unmarked.ASK : Unmarked.valueOf(value.toUpperCase(Locale.ROOT));
        } catch (IllegalArgumentException e) {
            throw new SettingException("HAPI_READ_UNMARKED is " + value + ": it must be ask, standby or primary.", e);
        }
    }

    private static int number(Environment environment, String name, int otherwise, int least, int most) {
        String value = text(environment, name);
        if (value.isEmpty()) {
            return otherwise;
        }
        try {
            int found = Integer.parseInt(value);
            if (found >= least && found <= most) {
                return found;
            }
        } catch (NumberFormatException e) {
            // Said below.
        }
        throw new SettingException(name + " is " + value + ": it must be a whole number from " + least + " to " + most + ".");
    }

    private static String text(Environment environment, String name) {
        String value = environment.getProperty(name);
        return value == null ? "" : value.strip();
    }
}
