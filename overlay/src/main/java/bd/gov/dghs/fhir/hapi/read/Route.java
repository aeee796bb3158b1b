// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.sql.Connection;
import java.sql.SQLException;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;

/** Where the current thread's statements go. A thread that nobody has sent elsewhere uses the primary. */
final class Route {

    private static final ThreadLocal<Route> CURRENT = new ThreadLocal<>();
    private static final Set<Route> TO_STANDBY = ConcurrentHashMap.newKeySet();

    private final Lsn mark;
    private final List<Connection> connections = new CopyOnWriteArrayList<>();
    private SQLException failure;

    private Route(Lsn mark) {
        this.mark = mark;
    }

    /** @param mark how far the standby has to be */
    static void toStandby(Lsn mark) {
        Route route = new Route(mark);
        CURRENT.set(route);
        TO_STANDBY.add(route);
    }

    /** @return what failed at the standby, or null */
    static SQLException backToPrimary() {
        Route route = CURRENT.get();
        CURRENT.remove();
        if (route == null) {
            return null;
        }
        TO_STANDBY.remove(route);
        return route.failure;
    }

    /** How far the standby has to be; null for the primary. */
    static Lsn standbyMark() {
        Route route = CURRENT.get();
        return route == null ? null : route.mark;
    }

    /**
     * Keeps the first failure. The exception that comes out of a transaction may be another one: when the
     * connection is lost, that it could not be rolled back.
     */
    static void failed(SQLException failure) {
        Route route = CURRENT.get();
        if (route != null && route.failure == null) {
            route.failure = failure;
        }
    }

    static void uses(Connection connection) {
        Route route = CURRENT.get();
        if (route != null) {
            route.connections.add(connection);
        }
    }

    /** Ends the statements that hang at the standby, so that their requests go on to the primary. */
    static void cutAll() {
        for (Route route : TO_STANDBY) {
            for (Connection connection : route.connections) {
                try {
                    // The driver's own: what the pool hands out is closed when it is given back, and then
                    // tells nothing of the one behind it, which may serve another request.
                    connection.unwrap(Connection.class).abort(Runnable::run);
                } catch (SQLException e) {
                    // It was given back.
                }
            }
        }
    }
}
