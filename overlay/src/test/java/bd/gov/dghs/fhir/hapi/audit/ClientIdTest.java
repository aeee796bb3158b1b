// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.audit;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;

import java.nio.charset.StandardCharsets;
import java.util.Base64;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ClientIdTest {

    @Test
    void theTokenCountsBeforeTheHeader() {
        assertEquals("vendor-7", ClientId.of("Bearer " + token("{\"azp\": \"vendor-7\"}"), "other"));
        assertEquals("vendor-7", ClientId.of("bearer  " + token("{\"azp\": \"vendor-7\"}"), null));
    }

    @Test
    void theHeaderCountsWithoutAUsableToken() {
        assertEquals("other", ClientId.of(null, "other"));
        assertEquals("other", ClientId.of("Basic dXNlcjpwdw==", "other"));
        assertEquals("other", ClientId.of("Bearer " + token("{\"sub\": \"vendor-7\"}"), "other"));
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "Bearer", "Bearer ", "Bearer a.b", "Bearer a.%%%.c", "Bearer ..", "Bearer a.bm8.c"})
    void whatIsNoTokenHasNoClient(String authorization) {
        assertNull(ClientId.of(authorization, null));
    }

    @Test
    void aClaimOfAnotherTypeIsNoClient() {
        assertNull(ClientId.of("Bearer " + token("{\"azp\": {\"a\": 1}}"), null));
        assertNull(ClientId.of("Bearer " + token("[\"azp\"]"), null));
        assertNull(ClientId.of("Bearer " + token("{\"azp\": \"  \"}"), "  "));
    }

    @Test
    void neitherNulNorLineBreaksNorEndlessNamesGetThrough() {
        assertEquals("ab", ClientId.of("Bearer " + token("{\"azp\": \"a\\u0000\\r\\nb\"}"), null));
        assertEquals(255, ClientId.of(null, "x".repeat(10_000)).length());
    }

    private static String token(String claims) {
        Base64.Encoder base64 = Base64.getUrlEncoder().withoutPadding();
        return base64.encodeToString("{}".getBytes(StandardCharsets.UTF_8))
                + "." + base64.encodeToString(claims.getBytes(StandardCharsets.UTF_8)) + ".signature";
    }
}
