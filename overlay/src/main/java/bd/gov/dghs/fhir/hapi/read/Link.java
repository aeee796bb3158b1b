// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import bd.gov.dghs.fhir.hapi.DatabaseSettings;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

/**
 * One connection outside the pools, used by one thread, that gives up soon: the questions asked here have
 * to be answered, or known to fail, while all connections of a pool are busy or hang.
 */
final class Link {

    private static final String SECONDS = "2";
    private static final String NO_RIGHT = "42501";

    private final DatabaseSettings database;
    private final String name;
    private Connection connection;
    private String cluster;

    @FunctionalInterface
    interface Question<T> {
        T ask(Statement statement) throws SQLException;
    }

    Link(DatabaseSettings database, String name) {
        this.database = database;
        this.name = name;
    }

    /** Connects if need be. After a failure the next question connects again. */
    <T> T ask(Question<T> question) throws SQLException {
        try {
            if (connection == null) {
                connection = connect();
                cluster = cluster(connection);
            }
            try (Statement statement = connection.createStatement()) {
                return question.ask(statement);
            }
        } catch (SQLException e) {
            close();
            throw e;
        }
    }

    /** What a primary and its standbys have in common, and no other cluster has. */
    String cluster() {
        return cluster;
    }

    void close() {
        Connection old = connection;
        connection = null;
        if (old != null) {
            try {
                old.close();
            } catch (SQLException e) {
                // It is given up because it is of no more use; that it cannot even be closed fits.
            }
        }
    }

    private Connection connect() throws SQLException {
        Properties properties = new Properties();
        if (database.username() != null) {
            properties.setProperty("user", database.username());
        }
        if (database.password() != null) {
            properties.setProperty("password", database.password());
        }
        properties.setProperty("ApplicationName", name);
        properties.setProperty("connectTimeout", SECONDS);
        properties.setProperty("loginTimeout", SECONDS);
        properties.setProperty("socketTimeout", SECONDS);
        return DriverManager.getConnection(database.url(), properties);
    }

    /** Asks one connection what {@link #cluster()} tells. */
    static String cluster(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            return text(statement, "SELECT 'system ' || system_identifier FROM pg_control_system()");
        } catch (SQLException e) {
            if (!NO_RIGHT.equals(e.getSQLState())) {
                throw e;
            }
        }
        // Weaker: two clusters made in the same way have the same numbers.
        try (Statement statement = connection.createStatement()) {
            return text(statement, "SELECT 'database ' || oid FROM pg_database WHERE datname = current_database()");
        }
    }

    private static String text(Statement statement, String sql) throws SQLException {
        try (ResultSet row = statement.executeQuery(sql)) {
            row.next();
            return row.getString(1);
        }
    }
}
