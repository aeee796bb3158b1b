// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import bd.gov.dghs.fhir.hapi.DatabaseSettings;
import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import javax.sql.DataSource;

/** Asks the standby over a connection of its own, and checks the connections of its pool. */
final class JdbcStandby implements StandbyMonitor.Source {

    private final Link link;
    private final DataSource pool;

    JdbcStandby(DatabaseSettings database, DataSource pool) {
        link = new Link(database, "fhir-read-monitor");
        this.pool = pool;
    }

    @Override
    public StandbyMonitor.Reading read() throws SQLException {
        return link.ask(statement -> {
            String sql = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text";
            try (ResultSet row = statement.executeQuery(sql)) {
                row.next();
                String replayed = row.getString(2);
                return new StandbyMonitor.Reading(
                        row.getBoolean(1),
                        replayed == null ? null : Lsn.parse(replayed).orElse(null),
                        link.cluster());
            }
        });
    }

    @Override
    public void tryPool(Lsn reached) throws SQLException {
        try (Connection connection = pool.getConnection()) {
            requireReached(connection, reached);
        }
    }

    @Override
    public void close() {
        link.close();
    }

    /**
     * Looks at the connection that a read is going to use. What the monitor saw may be a second old: a
     * standby that was started again begins before where it was, and a name or a pooler may lead to another
     * server by now.
     */
    static void requireReached(Connection connection, Lsn mark) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery(
                        "SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= '" + mark + "'::pg_lsn")) {
            row.next();
            if (!row.getBoolean(1)) {
                throw new StandbyUnfitException("The standby is not as far as " + mark + ", or is none any more");
            }
        }
    }
}
