// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import javax.sql.DataSource;

/**
 * Asks the primary over a connection of the requests' pool: one of its own would take a place of the pooler's
 * for good, for which nobody has made room.
 */
final class JdbcPrimary implements PrimaryPosition.Source {

    /**
     * A write is acknowledged when its log is flushed, and no more than that is sent to a standby: so the
     * flushed end is enough, and the standby need not wait for the log of transactions that are under way.
     * With synchronous_commit off a write is acknowledged sooner, and only the inserted end holds it.
     */
    private static final String POSITION =
            """
            SELECT CASE WHEN current_setting('synchronous_commit') = 'off'
                        THEN pg_current_wal_insert_lsn() ELSE pg_current_wal_flush_lsn() END::text,
                   pg_size_bytes(current_setting('wal_segment_size'))
            """;

    private final DataSource pool;
    private String cluster;

    JdbcPrimary(DataSource pool) {
        this.pool = pool;
    }

    @Override
    public PrimaryPosition.Answer ask() throws SQLException {
        try (Connection connection = pool.getConnection();
                Statement statement = connection.createStatement()) {
            if (cluster == null) {
                cluster = Link.cluster(connection);
            }
            statement.setQueryTimeout(2);
            try (ResultSet row = statement.executeQuery(POSITION)) {
                row.next();
                Lsn position = Lsn.parse(row.getString(1))
                        .orElseThrow(() -> new SQLException("The primary's answer is no position of its log"));
                return new PrimaryPosition.Answer(position.withoutPageHeader(row.getLong(2)), cluster);
            }
        } catch (SQLException e) {
            // It may be another server when it answers again.
            cluster = null;
            throw e;
        }
    }

    @Override
    public void close() {
        // The pool is the requests', and not closed here.
    }
}
