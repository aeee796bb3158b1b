// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.sql.SQLException;

/** A connection of the read pool leads to a server from which this read cannot be served. */
final class StandbyUnfitException extends SQLException {

    private static final long serialVersionUID = 1L;

    StandbyUnfitException(String message) {
        super(message);
    }
}
