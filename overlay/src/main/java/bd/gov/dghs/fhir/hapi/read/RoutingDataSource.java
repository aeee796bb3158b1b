// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.sql.Connection;
import java.sql.SQLException;
import java.util.Map;
import javax.sql.DataSource;
import org.springframework.jdbc.datasource.lookup.AbstractRoutingDataSource;

/** Connections of the primary or of the standby, as the thread's {@link Route} says. */
final class RoutingDataSource extends AbstractRoutingDataSource {

    private static final String STANDBY = "standby";

    RoutingDataSource(DataSource primary, DataSource standby) {
        setDefaultTargetDataSource(primary);
        setTargetDataSources(Map.of(STANDBY, standby));
        afterPropertiesSet();
    }

    @Override
    protected Object determineCurrentLookupKey() {
        return Route.standbyMark() == null ? null : STANDBY;
    }

    @Override
    public Connection getConnection() throws SQLException {
        Lsn mark = Route.standbyMark();
        return mark == null ? super.getConnection() : standbyConnection(mark);
    }

    private Connection standbyConnection(Lsn mark) throws SQLException {
        Connection connection = null;
        try {
            connection = super.getConnection();
            Route.uses(connection);
            JdbcStandby.requireReached(connection, mark);
            return connection;
        } catch (SQLException e) {
            Route.failed(e);
            if (connection != null) {
                connection.close();
            }
            throw e;
        }
    }
}
