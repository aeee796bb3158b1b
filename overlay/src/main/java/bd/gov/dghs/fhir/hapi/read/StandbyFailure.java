// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import ca.uhn.fhir.interceptor.api.Hook;
import ca.uhn.fhir.interceptor.api.Interceptor;
import ca.uhn.fhir.interceptor.api.Pointcut;
import jakarta.servlet.http.HttpServletRequest;
import java.net.SocketTimeoutException;
import java.sql.SQLException;
import java.sql.SQLTransientConnectionException;
import java.util.Set;

/** Leaves on a read's request that it failed because of the standby, so that it is repeated on the primary. */
@Interceptor
public class StandbyFailure {

    private static final String ATTRIBUTE = StandbyFailure.class.getName();
    /** What a failure says of the standby. */
    enum Kind {
        NONE,
        /** This read only: cancelled for the replay, or it has written something. */
        READ,
        /** It ends, starts, is gone or does not answer. */
        STANDBY
    }

    private static final Set<String> OF_A_READ = Set.of("40001", "25006");
    private static final Set<String> OF_THE_STANDBY = Set.of("57P01", "57P02", "57P03", "57014");

    @Hook(Pointcut.SERVER_PRE_PROCESS_OUTGOING_EXCEPTION)
    public void keep(Throwable failure, HttpServletRequest request) {
        Kind kind = Route.present() == Route.STANDBY ? kind(failure) : Kind.NONE;
        if (kind != Kind.NONE) {
            request.setAttribute(ATTRIBUTE, kind);
        }
    }

    static Kind seen(HttpServletRequest request) {
        return request.getAttribute(ATTRIBUTE) instanceof Kind kind ? kind : Kind.NONE;
    }

    static void forget(HttpServletRequest request) {
        request.removeAttribute(ATTRIBUTE);
    }

    /** Whether the standby is to blame: what failed there may well succeed on the primary. */
    static Kind kind(Throwable failure) {
        Throwable cause = failure;
        // HAPI, Spring and Hibernate each wrap it once or twice; a chain may also be a circle.
        for (int depth = 0; cause != null && depth < 30; depth++) {
            if (cause instanceof SQLTransientConnectionException || cause instanceof SocketTimeoutException) {
                return Kind.STANDBY;
            }
            if (cause instanceof SQLException sql && sql.getSQLState() != null) {
                String state = sql.getSQLState();
                if (OF_THE_STANDBY.contains(state) || state.startsWith("08")) {
                    return Kind.STANDBY;
                }
                if (OF_A_READ.contains(state)) {
                    return Kind.READ;
                }
            }
            cause = cause.getCause();
        }
        return Kind.NONE;
    }
}
