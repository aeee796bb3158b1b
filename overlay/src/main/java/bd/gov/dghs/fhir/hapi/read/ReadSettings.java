// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import bd.gov.dghs.fhir.hapi.DatabaseSettings;
import bd.gov.dghs.fhir.hapi.SettingException;
import java.time.Duration;
import java.util.Arrays;
import java.util.Locale;
import org.springframework.core.env.Environment;

/**
 * The settings of the read routing.
 *
 * @param longestWait the longest wait of one read for the standby to get as far as the read needs it
 * @param heldBytes how much of an answer is held back, so that it can still be asked of the primary
 */
record ReadSettings(
        DatabaseSettings standby,
        int poolSize,
        Duration connectionTimeout,
        Duration socketTimeout,
        Duration maxLag,
        Duration longestWait,
        Unmarked unmarked,
        int heldBytes) {

    static final String URL = "HAPI_DATASOURCE_READ_URL";

    private static final String PRIMARY = "HAPI_DATASOURCE";
    private static final String STANDBY = "HAPI_DATASOURCE_READ";
    private static final String UNMARKED = "HAPI_READ_UNMARKED";
    private static final String POSTGRESQL = "jdbc:postgresql:";

    /** What becomes of a read whose client shows no mark of a write. */
    enum Unmarked {
        /** The primary is asked how far it is, and the standby has to be as far. */
        ASK,
        /** The standby may be as far behind as the limit of lag allows. */
        STANDBY,
        PRIMARY
    }

    static boolean isOn(Environment environment) {
        return text(environment, URL) != null;
    }

    static ReadSettings of(Environment environment) {
        DatabaseSettings primary = DatabaseSettings.of(environment, PRIMARY);
        DatabaseSettings standby = DatabaseSettings.of(environment, STANDBY, primary);
        if (!standby.url().startsWith(POSTGRESQL)) {
            // The value may hold a password: it is not repeated.
            throw new SettingException(URL + " has to begin with " + POSTGRESQL + "//: only PostgreSQL has the"
                    + " standby that it should lead to. Correct it, or remove it to read from the primary only.");
        }
        return new ReadSettings(
                standby,
                number(environment, "HAPI_DATASOURCE_READ_POOL_SIZE", 5, 1, 200),
                // Hikari takes no less than 250 ms.
                Duration.ofMillis(number(environment, "HAPI_DATASOURCE_READ_CONNECTION_TIMEOUT_MS", 1_000, 250, 60_000)),
                Duration.ofSeconds(number(environment, "HAPI_DATASOURCE_READ_SOCKET_TIMEOUT_S", 10, 1, 600)),
                Duration.ofSeconds(number(environment, "HAPI_READ_MAX_LAG_SECONDS", 10, 1, 86_400)),
                Duration.ofMillis(number(environment, "HAPI_READ_WAIT_MS", 200, 1, 10_000)),
                unmarked(environment),
                number(environment, "HAPI_READ_HELD_BYTES", 1 << 20, 0, 1 << 26));
    }

    private static Unmarked unmarked(Environment environment) {
        String value = text(environment, UNMARKED);
        if (value == null) {
            return Unmarked.ASK;
        }
        return Arrays.stream(Unmarked.values())
                .filter(known -> known.name().toLowerCase(Locale.ROOT).equals(value))
                .findFirst()
                .orElseThrow(() -> new SettingException(
                        UNMARKED + " is " + value + ": it can be ask, standby or primary."));
    }

    private static int number(Environment environment, String name, int otherwise, int least, int most) {
        String value = text(environment, name);
        if (value == null) {
            return otherwise;
        }
        try {
            int number = Integer.parseInt(value);
            if (number >= least && number <= most) {
                return number;
            }
        } catch (NumberFormatException e) {
            // Said below, with the range.
        }
        throw new SettingException(
                name + " is " + value + ": it has to be a whole number from " + least + " to " + most + ".");
    }

    private static String text(Environment environment, String name) {
        String value = environment.getProperty(name);
        // Compose passes a variable that the .env file lacks as an empty string.
        return value == null || value.isBlank() ? null : value.strip();
    }
}
