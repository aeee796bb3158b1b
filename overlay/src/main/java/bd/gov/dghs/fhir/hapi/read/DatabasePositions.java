// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import bd.gov.dghs.fhir.hapi.DatabaseSettings;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;
import javax.sql.DataSource;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The positions by the servers' own word: the primary's through the requests' pool, the standby's on
 * a connection of its own that never waits for one of the pool's.
 */
class DatabasePositions implements Positions {

    private static final Logger LOG = LoggerFactory.getLogger(DatabasePositions.class);
    private static final String LIMIT_S = "2";
    // What was acknowledged is on the disk, unless the writers do not wait for that.
    private static final String PRIMARY = "SELECT CASE current_setting('synchronous_commit') WHEN 'off'"
            + " THEN pg_catalog.pg_current_wal_insert_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END::text";
    private static final String STANDBY = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery()"
            + " THEN pg_catalog.pg_last_wal_replay_lsn() END::text";
    private static final String SYSTEM = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";

    private final DataSource primary;
    private final DatabaseSettings standby;
    private Connection connection;

    DatabasePositions(DataSource primary, DatabaseSettings standby) {
        this.primary = primary;
        this.standby = standby;
    }

    @Override
    public long primary() throws SQLException {
        try (Connection borrowed = primary.getConnection()) {
            return Lsn.reached(position(value(borrowed, PRIMARY)));
        }
    }

    @Override
    public synchronized long standby() throws SQLException {
        try {
            if (connection == null) {
                connection = open();
            }
            String text = value(connection, STANDBY);
            if (text == null) {
                throw new SQLException("it is not in recovery: it was promoted, or is no standby");
            }
            return position(text);
        } catch (SQLException e) {
            close();
            throw e;
        }
    }

    private Connection open() throws SQLException {
        Properties properties = new Properties();
        if (standby.username() != null) {
            properties.setProperty("user", standby.username());
        }
        if (standby.password() != null) {
            properties.setProperty("password", standby.password());
        }
        for (String name : new String[] {"connectTimeout", "socketTimeout", "loginTimeout"}) {
            properties.setProperty(name, LIMIT_S);
        }
        properties.setProperty("ApplicationName", "bd-fhir-hapi read monitor");
        Connection opened = DriverManager.getConnection(standby.url(), properties);
        try {
            sameCluster(opened);
        } catch (SQLException e) {
            opened.close();
            throw e;
        }
        return opened;
    }

    /** Positions of two clusters can't be compared, however much they look alike. */
    private void sameCluster(Connection opened) throws SQLException {
        String there = value(opened, SYSTEM);
        String here;
        try (Connection borrowed = primary.getConnection()) {
            here = value(borrowed, SYSTEM);
        } catch (SQLException e) {
            // Without a primary nothing is compared, and a read without a mark is not served either.
            LOG.warn("The primary could not be asked which cluster it is: {}", e.getMessage());
            return;
        }
        if (!here.equals(there)) {
            throw new SQLException("it is of another cluster, " + there + ", than the primary, " + here);
        }
    }

    private static String value(Connection asked, String query) throws SQLException {
        try (Statement statement = asked.createStatement()) {
            statement.setQueryTimeout(2);
            try (ResultSet rows = statement.executeQuery(query)) {
                rows.next();
                return rows.getString(1);
            }
        }
    }

    private static long position(String text) throws SQLException {
        return Lsn.parse(text).orElseThrow(() -> new SQLException("no position: " + text));
    }

    @Override
    public synchronized void close() {
        if (connection != null) {
            try {
                connection.close();
            } catch (SQLException e) {
                LOG.debug("The standby's connection was gone already: {}", e.getMessage());
            }
            connection = null;
        }
    }
}
