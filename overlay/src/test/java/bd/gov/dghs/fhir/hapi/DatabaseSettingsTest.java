// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.springframework.mock.env.MockEnvironment;

class DatabaseSettingsTest {

    private final MockEnvironment environment =
            new MockEnvironment().withProperty("A_URL", "jdbc:a").withProperty("A_USERNAME", "me");

    @Test
    void aPasswordFileLosesItsLastNewlineAndNothingElse(@TempDir Path folder) throws IOException {
        Path file = Files.writeString(folder.resolve("secret"), " p$w\n\n");
        environment.setProperty("A_PASSWORD_FILE", file.toString());
        assertEquals(" p$w\n", DatabaseSettings.of(environment, "A").password());
    }

    @Test
    void twoPasswordsAreOneTooMany() {
        environment.setProperty("A_PASSWORD", "x");
        environment.setProperty("A_PASSWORD_FILE", "/nowhere");
        assertThrows(SettingException.class, () -> DatabaseSettings.of(environment, "A"));
    }

    @Test
    void aMissingFileAndAMissingUrlAreNamed() {
        environment.setProperty("A_PASSWORD_FILE", "/nowhere/secret");
        SettingException noFile =
                assertThrows(SettingException.class, () -> DatabaseSettings.of(environment, "A"));
        assertTrue(noFile.getMessage().contains("/nowhere/secret"), noFile.getMessage());
        SettingException noUrl =
                assertThrows(SettingException.class, () -> DatabaseSettings.of(environment, "B"));
        assertTrue(noUrl.getMessage().contains("B_URL"), noUrl.getMessage());
    }

    @Test
    void whatIsUnsetOrEmptyComesFromTheFallback() {
        environment.setProperty("A_PASSWORD", "s3cret");
        environment.setProperty("B_URL", "jdbc:b");
        environment.setProperty("B_USERNAME", "");
        DatabaseSettings settings =
                DatabaseSettings.of(environment, "B", DatabaseSettings.of(environment, "A"));
        assertEquals(new DatabaseSettings("jdbc:b", "me", "s3cret"), settings);
        assertFalse(settings.toString().contains("s3cret"), "a log line shows no password");
    }
}
