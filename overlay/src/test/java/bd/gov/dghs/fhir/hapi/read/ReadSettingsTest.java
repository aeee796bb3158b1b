// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import bd.gov.dghs.fhir.hapi.DatabaseSettings;
import bd.gov.dghs.fhir.hapi.SettingException;
import java.time.Duration;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.springframework.mock.env.MockEnvironment;

class ReadSettingsTest {

    private final MockEnvironment environment = new MockEnvironment()
            .withProperty("HAPI_DATASOURCE_URL", "jdbc:postgresql://primary/fhir")
            .withProperty("HAPI_DATASOURCE_USERNAME", "app")
            .withProperty("HAPI_DATASOURCE_PASSWORD", "s3cret")
            .withProperty("HAPI_DATASOURCE_READ_URL", "jdbc:postgresql://standby/fhir");

    @Test
    void withoutAUrlItIsOff() {
        assertTrue(ReadSettings.isOn(environment));
        environment.setProperty("HAPI_DATASOURCE_READ_URL", " ");
        assertFalse(ReadSettings.isOn(environment));
        assertFalse(ReadSettings.isOn(new MockEnvironment()));
    }

    @Test
    void theUrlIsEnough() {
        ReadSettings settings = ReadSettings.of(environment);
        assertEquals(new DatabaseSettings("jdbc:postgresql://standby/fhir", "app", "s3cret"), settings.standby());
        assertEquals(5, settings.poolSize());
        assertEquals(Duration.ofSeconds(1), settings.connectionTimeout());
        assertEquals(Duration.ofSeconds(10), settings.socketTimeout());
        assertEquals(Duration.ofSeconds(10), settings.maxLag());
        assertEquals(Duration.ofMillis(200), settings.longestWait());
        assertEquals(ReadSettings.Unmarked.ASK, settings.unmarked());
        assertEquals(1 << 20, settings.heldBytes());
    }

    @Test
    void anEmptyVariableIsNone() {
        environment.setProperty("HAPI_READ_WAIT_MS", "");
        environment.setProperty("HAPI_READ_UNMARKED", "");
        assertEquals(Duration.ofMillis(200), ReadSettings.of(environment).longestWait());
        assertEquals(ReadSettings.Unmarked.ASK, ReadSettings.of(environment).unmarked());
    }

    @ParameterizedTest
    @CsvSource({
        "HAPI_DATASOURCE_READ_URL, jdbc:mysql://standby/fhir",
        "HAPI_DATASOURCE_READ_POOL_SIZE, 0",
        "HAPI_DATASOURCE_READ_CONNECTION_TIMEOUT_MS, 249",
        "HAPI_DATASOURCE_READ_SOCKET_TIMEOUT_S, 0",
        "HAPI_READ_MAX_LAG_SECONDS, -1",
        "HAPI_READ_WAIT_MS, 1.5",
        "HAPI_READ_WAIT_MS, 0",
        "HAPI_READ_WAIT_MS, 99999999999",
        "HAPI_READ_UNMARKED, Ask",
        "HAPI_READ_UNMARKED, replica",
        "HAPI_READ_HELD_BYTES, 1MiB",
    })
    void aWrongValueStopsTheStartAndIsNamed(String name, String value) {
        environment.setProperty(name, value);
        SettingException refused = assertThrows(SettingException.class, () -> ReadSettings.of(environment));
        assertTrue(refused.getMessage().startsWith(name), refused.getMessage());
    }

    @Test
    void aUrlMayHoldAPasswordAndIsNotRepeated() {
        environment.setProperty("HAPI_DATASOURCE_READ_URL", "postgresql://app:s3cret@standby/fhir");
        SettingException refused = assertThrows(SettingException.class, () -> ReadSettings.of(environment));
        assertFalse(refused.getMessage().contains("s3cret"), refused.getMessage());
    }
}
