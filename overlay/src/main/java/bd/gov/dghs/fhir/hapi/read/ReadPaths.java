// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import jakarta.servlet.http.HttpServletRequest;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.regex.Pattern;
import org.springframework.web.util.UriUtils;

/**
 * Which requests only read, and read with statements that a standby can run: a list of what is known to,
 * so that whatever is not on it goes to the primary.
 *
 * <p>$everything is not: HAPI refuses offset paging for it, so that it writes its result to the database.
 */
final class ReadPaths {

    private static final String HISTORY = "_history";
    private static final Pattern ID = Pattern.compile("[A-Za-z0-9.-]{1,64}");

    /** Pages of a stored result, and searches that a provider has given a name: nobody knows what they do. */
    private static final Set<String> NOT_WITH = Set.of("_getpages", "_query");

    private final Set<String> types;

    /** @param types the names of the resource types */
    ReadPaths(Set<String> types) {
        this.types = Set.copyOf(types);
    }

    static boolean isRead(String method) {
        return method.equals("GET") || method.equals("HEAD");
    }

    boolean canBeServedByAStandby(HttpServletRequest request) {
        String base = request.getContextPath() + request.getServletPath();
        String path = request.getRequestURI();
        return isRead(request.getMethod())
                && path.startsWith(base)
                && isReadPath(path.substring(base.length()))
                && NOT_WITH.stream().noneMatch(request.getParameterMap()::containsKey);
    }

    /** @param path what follows the base of the server, as it was sent */
    boolean isReadPath(String path) {
        List<String> parts = parts(path);
        return switch (parts.size()) {
            case 1 -> isType(parts, 0) || isHistory(parts, 0);
            case 2 -> isType(parts, 0) && (isId(parts, 1) || isHistory(parts, 1));
            // The last is a search in a compartment.
            case 3 -> isType(parts, 0) && isId(parts, 1) && (isHistory(parts, 2) || isType(parts, 2));
            case 4 -> isType(parts, 0) && isId(parts, 1) && isHistory(parts, 2) && isId(parts, 3);
            default -> false;
        };
    }

    private boolean isType(List<String> parts, int index) {
        return types.contains(parts.get(index));
    }

    private static boolean isHistory(List<String> parts, int index) {
        return parts.get(index).equals(HISTORY);
    }

    private static boolean isId(List<String> parts, int index) {
        return ID.matcher(parts.get(index)).matches();
    }

    private static List<String> parts(String path) {
        List<String> parts = new ArrayList<>();
        String inner = path.startsWith("/") ? path.substring(1) : path;
        inner = inner.endsWith("/") ? inner.substring(0, inner.length() - 1) : inner;
        for (String part : inner.split("/", -1)) {
            try {
                // Only whole parts are compared, so a part with an encoded slash in it fits nowhere.
                parts.add(UriUtils.decode(part, "UTF-8"));
            } catch (IllegalArgumentException e) {
                return List.of();
            }
        }
        return parts;
    }
}
