// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import jakarta.servlet.http.Cookie;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import org.springframework.http.HttpHeaders;
import org.springframework.http.ResponseCookie;

/**
 * How far a server has to be for a client to find its own writes there. The client carries it, because the
 * servers behind the balancer share no memory.
 */
record Mark(Kind kind, Lsn position) {

    static final String HEADER = "X-FHIR-Read-After";
    static final String COOKIE = "fhir-read-after";

    /** Given when it is not known how far: only the primary is sure to have the write. */
    static final Mark PRIMARY = new Mark(Kind.PRIMARY, Lsn.ZERO);

    static final Mark NONE = new Mark(Kind.NONE, Lsn.ZERO);
    static final Mark UNREADABLE = new Mark(Kind.UNREADABLE, Lsn.ZERO);

    private static final String PRIMARY_TEXT = "primary";
    private static final Duration KEPT = Duration.ofMinutes(5);

    enum Kind {
        NONE,
        POSITION,
        PRIMARY,
        UNREADABLE
    }

    static Mark at(Lsn position) {
        return new Mark(Kind.POSITION, position);
    }

    /** The furthest of those that the request carries. */
    static Mark of(HttpServletRequest request) {
        Mark furthest = NONE;
        for (String text : texts(request)) {
            Mark mark = parse(text);
            if (mark.kind != Kind.POSITION) {
                return mark;
            }
            furthest = mark.position.reaches(furthest.position) ? mark : furthest;
        }
        return furthest;
    }

    /** @param secure whether the client came over TLS */
    void giveTo(HttpServletResponse response, boolean secure) {
        String text = kind == Kind.PRIMARY ? PRIMARY_TEXT : position.toString();
        response.setHeader(HEADER, text);
        ResponseCookie cookie = ResponseCookie.from(COOKIE, text)
                .path("/")
                .maxAge(KEPT)
                .httpOnly(true)
                .secure(secure)
                .sameSite("Lax")
                .build();
        response.addHeader(HttpHeaders.SET_COOKIE, cookie.toString());
    }

    private static Mark parse(String text) {
        if (text.equals(PRIMARY_TEXT)) {
            return PRIMARY;
        }
        Optional<Lsn> position = Lsn.parse(text);
        return position.isPresent() ? at(position.get()) : UNREADABLE;
    }

    private static List<String> texts(HttpServletRequest request) {
        List<String> texts = new ArrayList<>();
        request.getHeaders(HEADER).asIterator().forEachRemaining(text -> texts.add(text.strip()));
        if (request.getCookies() != null) {
            for (Cookie cookie : request.getCookies()) {
                if (cookie.getName().equals(COOKIE)) {
                    texts.add(cookie.getValue());
                }
            }
        }
        return texts;
    }
}
