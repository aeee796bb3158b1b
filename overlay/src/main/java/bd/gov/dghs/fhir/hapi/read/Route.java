// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

/** Which database the present thread's statements go to. A thread that nobody has routed goes to the primary. */
enum Route {
    PRIMARY,
    STANDBY;

    private static final ThreadLocal<Route> PRESENT = new ThreadLocal<>();

    static Route present() {
        Route route = PRESENT.get();
        return route == null ? PRIMARY : route;
    }

    static void take(Route route) {
        PRESENT.set(route);
    }

    static void leave() {
        PRESENT.remove();
    }
}
