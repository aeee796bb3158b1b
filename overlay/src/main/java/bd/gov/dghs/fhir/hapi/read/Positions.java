// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.sql.SQLException;

/** Where the two servers are in the WAL. */
interface Positions extends AutoCloseable {

    /** Up to where the primary has everything that a client was told to be written. */
    long primary() throws SQLException;

    /** Up to where the standby has replayed; throws for a server that is no standby of this primary. */
    long standby() throws SQLException;

    @Override
    void close();
}
