// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.util.Locale;

/** Why a read was served from where it was; the values of a label in Prometheus. */
enum Reason {
    OK(true),
    /** The standby failed when a part of the answer had been sent already. */
    CUT(true),
    NOT_ROUTABLE(false),
    NO_CACHE(false),
    CONFIGURED(false),
    OUT(false),
    LAGGING(false),
    /** The mark is nothing that this server has given. */
    BAD_MARK(false),
    /** The mark says that only the primary is sure to have the client's write. */
    MARK_PRIMARY(false),
    MARK_TIMEOUT(false),
    ASK_FAILED(false),
    /** The standby failed, and the primary was asked instead. */
    RETRIED(false);

    private final boolean standby;

    Reason(boolean standby) {
        this.standby = standby;
    }

    String route() {
        return standby ? "standby" : "primary";
    }

    String label() {
        return name().toLowerCase(Locale.ROOT);
    }
}
