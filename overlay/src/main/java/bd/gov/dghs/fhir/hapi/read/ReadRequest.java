// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.util.List;
import java.util.Set;

/** Which requests only read what a standby has. Everything that is not known to goes to the primary. */
final class ReadRequest {

    private ReadRequest() {}

    /**
     * Whether a request is a read, a vread, a history, a search or $everything.
     *
     * @param method of HTTP
     * @param path behind the servlet's, decoded, such as /Patient/1; null for the servlet's own
     * @param types names of resource types
     */
    static boolean routable(String method, String path, Set<String> types) {
        if (!method.equals("GET") && !method.equals("HEAD") || path == null) {
            return false;
        }
        List<String> parts = List.of(path.replaceFirst("^/", "").split("/", -1));
        String first = parts.get(0);
        if (first.equals("_history")) {
            return parts.size() == 1;
        }
        if (!types.contains(first)) {
            return false;
        }
        return switch (parts.size()) {
            case 1 -> true;
            case 2 -> ofType(parts.get(1));
            case 3 -> parts.get(2).equals("_history") || parts.get(2).equals("$everything") || types.contains(parts.get(2));
            case 4 -> parts.get(2).equals("_history");
            default -> false;
        };
    }

    private static boolean ofType(String part) {
        boolean operation = part.startsWith("$") || part.startsWith("_");
        return part.equals("_history") || part.equals("$everything") || !part.isEmpty() && !operation;
    }
}
