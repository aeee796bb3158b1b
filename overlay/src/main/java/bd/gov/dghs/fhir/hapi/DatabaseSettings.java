// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.springframework.core.env.Environment;

/**
 * How to reach one database, read from the variables that share a prefix: PREFIX_URL,
 * PREFIX_USERNAME, and PREFIX_PASSWORD or PREFIX_PASSWORD_FILE.
 */
public record DatabaseSettings(String url, String username, String password) {

    public static DatabaseSettings of(Environment environment, String prefix) {
        return of(environment, prefix, null);
    }

    /** A variable that is unset or empty takes its value from {@code fallback}, if there is one. */
    public static DatabaseSettings of(Environment environment, String prefix, DatabaseSettings fallback) {
        String url = text(environment, prefix + "_URL");
        String username = text(environment, prefix + "_USERNAME");
        String password = password(environment, prefix);
        if (fallback != null) {
            url = url == null ? fallback.url : url;
            username = username == null ? fallback.username : username;
            password = password == null ? fallback.password : password;
        }
        if (url == null) {
            throw new SettingException(prefix + "_URL is not set: give the JDBC URL of the database.");
        }
        return new DatabaseSettings(url, username, password);
    }

    private static String password(Environment environment, String prefix) {
        String name = prefix + "_PASSWORD";
        String value = text(environment, name);
        String file = text(environment, name + "_FILE");
        if (value != null && file != null) {
            throw new SettingException(
                    "Both " + name + " and " + name + "_FILE are set: remove one, so that it is plain which counts.");
        }
        if (file == null) {
            return value;
        }
        try {
            // Secret files usually end with the newline of the tool that wrote them. Only that one
            // goes: further white space may belong to the password.
            return Files.readString(Path.of(file)).replaceFirst("\\r?\\n\\z", "");
        } catch (IOException e) {
            throw new SettingException(name + "_FILE names " + file + ", which cannot be read: " + e, e);
        }
    }

    private static String text(Environment environment, String name) {
        String value = environment.getProperty(name);
        // Compose passes a variable that the .env file lacks as an empty string.
        return value == null || value.isEmpty() ? null : value;
    }

    /** Keeps the password out of any log line that prints the settings. */
    @Override
    public String toString() {
        return "DatabaseSettings[url=" + url + ", username=" + username + "]";
    }
}
