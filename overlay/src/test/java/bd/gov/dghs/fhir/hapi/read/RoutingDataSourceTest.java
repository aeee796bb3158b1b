// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Proxy;
import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.springframework.jdbc.datasource.AbstractDataSource;

class RoutingDataSourceTest {

    private final List<String> events = new ArrayList<>();
    private boolean reached = true;
    private final RoutingDataSource routing = new RoutingDataSource(new Pool("primary"), new Pool("standby"));

    @AfterEach
    void back() {
        Route.backToPrimary();
    }

    @Test
    void aThreadUsesThePrimaryUnlessItIsSentElsewhere() throws Exception {
        routing.getConnection();
        Route.toStandby(new Lsn(0x10));
        routing.getConnection();
        assertNull(Route.backToPrimary());
        routing.getConnection();
        assertEquals(
                List.of(
                        "primary",
                        "standby",
                        "SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= '0/10'::pg_lsn",
                        "primary"),
                events);
    }

    @Test
    void aConnectionThatLeadsToTheWrongPlaceIsGivenBack() {
        reached = false;
        Route.toStandby(new Lsn(0x10));
        SQLException unfit = assertThrows(SQLException.class, routing::getConnection);
        assertEquals("close", events.get(events.size() - 1));
        assertEquals(unfit, Route.backToPrimary());
        assertEquals(SqlFailure.RETRY, SqlFailure.of(unfit));
    }

    @Test
    void whatHangsAtTheStandbyIsCut() throws Exception {
        Route.toStandby(Lsn.ZERO);
        routing.getConnection();
        Route.cutAll();
        assertTrue(events.contains("abort"));
        Route.backToPrimary();
        events.clear();
        Route.cutAll();
        assertEquals(List.of(), events);
    }

    private final class Pool extends AbstractDataSource {

        private final String name;

        Pool(String name) {
            this.name = name;
        }

        @Override
        public Connection getConnection() {
            events.add(name);
            return connection();
        }

        @Override
        public Connection getConnection(String username, String password) {
            return getConnection();
        }
    }

    private Connection connection() {
        return stub(Connection.class, (proxy, method, arguments) -> switch (method.getName()) {
            case "createStatement" -> statement();
            case "unwrap" -> proxy;
            case "close", "abort" -> {
                events.add(method.getName());
                yield null;
            }
            default -> throw new UnsupportedOperationException(method.getName());
        });
    }

    private Statement statement() {
        return stub(Statement.class, (proxy, method, arguments) -> switch (method.getName()) {
            case "executeQuery" -> {
                events.add((String) arguments[0]);
                yield row();
            }
            default -> null;
        });
    }

    private ResultSet row() {
        return stub(ResultSet.class, (proxy, method, arguments) -> switch (method.getName()) {
            case "next" -> true;
            case "getBoolean" -> reached;
            default -> null;
        });
    }

    private static <T> T stub(Class<T> type, InvocationHandler handler) {
        return type.cast(Proxy.newProxyInstance(type.getClassLoader(), new Class<?>[] {type}, handler));
    }
}
