// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import com.zaxxer.hikari.SQLExceptionOverride;
import java.sql.SQLException;

/** Sees each failure for which the read pool gives a connection up, in the thread that it happened to. */
public final class ConnectionWitness implements SQLExceptionOverride {

    // Hikari calls its verdict Override as well.
    @java.lang.Override
    public Override adjudicate(SQLException failure) {
        Route.failed(failure);
        return Override.CONTINUE_EVICT;
    }
}
