// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.audit;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.util.Base64;

/** Who sent a request, as far as the request says so. */
final class ClientId {

    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String BEARER = "Bearer ";
    private static final int LONGEST = 255;

    private ClientId() {}

    /**
     * The azp claim of a bearer token, else the X-Client-Id header, else null.
     *
     * <p>The token is read, not verified: this says what a client claims to be, for statistics and
     * for the trail. It must never decide what a client may do.
     */
    static String of(String authorization, String clientIdHeader) {
        String claimed = clean(authorizedParty(authorization));
        return claimed != null ? claimed : clean(clientIdHeader);
    }

    private static String authorizedParty(String authorization) {
        if (authorization == null || !authorization.regionMatches(true, 0, BEARER, 0, BEARER.length())) {
            return null;
        }
        String[] parts = authorization.substring(BEARER.length()).strip().split("\\.", -1);
        if (parts.length != 3) {
            return null;
        }
        try {
            JsonNode azp = JSON.readTree(Base64.getUrlDecoder().decode(parts[1])).path("azp");
            return azp.isTextual() ? azp.asText() : null;
        } catch (IllegalArgumentException | IOException e) {
            // Anyone can send anything here; a token that is none has no client.
            return null;
        }
    }

    /** A claim may hold what PostgreSQL's text cannot (NUL) or what would break a log line. */
    private static String clean(String value) {
        if (value == null) {
            return null;
        }
        String printable = value.replaceAll("\\p{Cntrl}", "").strip();
        if (printable.isEmpty()) {
            return null;
        }
        return printable.length() > LONGEST ? printable.substring(0, LONGEST) : printable;
    }
}
