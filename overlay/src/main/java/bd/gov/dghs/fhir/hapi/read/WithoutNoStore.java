// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletRequestWrapper;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Enumeration;
import java.util.List;
import java.util.Locale;
import org.springframework.http.HttpHeaders;

/**
 * A request whose no-store is not seen by HAPI, which would end the result after a hundred resources, with
 * no link to the rest. With offset paging nothing is stored anyway. A client that also says how many
 * results it wants at most has asked for an end, and gets it.
 */
final class WithoutNoStore extends HttpServletRequestWrapper {

    private static final String NO_STORE = "no-store";
    private static final String MAX_RESULTS = "max-results";

    WithoutNoStore(HttpServletRequest request) {
        super(request);
    }

    @Override
    public String getHeader(String name) {
        if (!isCacheControl(name)) {
            return super.getHeader(name);
        }
        Enumeration<String> values = getHeaders(name);
        return values.hasMoreElements() ? values.nextElement() : null;
    }

    @Override
    public Enumeration<String> getHeaders(String name) {
        if (!isCacheControl(name)) {
            return super.getHeaders(name);
        }
        List<String> directives = new ArrayList<>();
        super.getHeaders(name).asIterator().forEachRemaining(value -> {
            for (String directive : value.split(",")) {
                directives.add(directive.strip());
            }
        });
        if (directives.stream().noneMatch(directive -> lower(directive).startsWith(MAX_RESULTS))) {
            directives.removeIf(directive -> lower(directive).equals(NO_STORE));
        }
        return Collections.enumeration(directives.isEmpty() ? List.of() : List.of(String.join(", ", directives)));
    }

    private static boolean isCacheControl(String name) {
        return name.equalsIgnoreCase(HttpHeaders.CACHE_CONTROL);
    }

    private static String lower(String directive) {
        return directive.toLowerCase(Locale.ROOT);
    }
}
