// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi;

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import org.flywaydb.core.Flyway;
import org.flywaydb.core.api.configuration.FluentConfiguration;
import org.flywaydb.core.internal.database.postgresql.PostgreSQLConfigurationExtension;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.DependsOn;
import org.springframework.context.annotation.Primary;
import org.springframework.core.env.Environment;

/** Two databases, each with a pool for the requests and a direct way for its migrations. */
@Configuration(proxyBeanMethods = false)
class DataSourceConfig {

    private static final String FHIR = "HAPI_DATASOURCE";
    private static final String AUDIT = "AUDIT_DATASOURCE";

    @Bean
    @Primary
    HikariDataSource fhirDataSource(Environment environment) {
        HikariConfig pool = pool(environment, FHIR, "fhir", 5, 10_000);
        // The pooler may come up together with this server; it gets a moment before the start fails.
        pool.setInitializationFailTimeout(30_000);
        return new HikariDataSource(pool);
    }

    @Bean
    HikariDataSource auditDataSource(Environment environment) {
        HikariConfig pool = pool(environment, AUDIT, "audit", 2, 3_000);
        // A missing audit side must not keep the FHIR side from starting.
        pool.setInitializationFailTimeout(-1);
        // A pooler accepts and queues while its database is away. Without a limit each request
        // would wait for its audit row as long as the pooler does; with it the row fails and counts.
        pool.addDataSourceProperty(
                "socketTimeout", environment.getProperty(AUDIT + "_SOCKET_TIMEOUT_S", "5"));
        return new HikariDataSource(pool);
    }

    // A start that is going to be refused for its package must not have migrated first.
    @Bean(initMethod = "migrate")
    @DependsOn("igSettings")
    Flyway fhirFlyway(Environment environment) {
        return flyway(environment, "HAPI_FLYWAY", FHIR, "classpath:db/migration/fhir");
    }

    @Bean(initMethod = "migrate")
    @DependsOn("igSettings")
    Flyway auditFlyway(Environment environment) {
        return flyway(environment, "AUDIT_FLYWAY", AUDIT, "classpath:db/migration/audit");
    }

    private static HikariConfig pool(
            Environment environment, String prefix, String name, int size, long connectionTimeoutMs) {
        DatabaseSettings database = DatabaseSettings.of(environment, prefix);
        HikariConfig pool = new HikariConfig();
        pool.setPoolName(name);
        pool.setJdbcUrl(database.url());
        pool.setUsername(database.username());
        pool.setPassword(database.password());
        pool.setMaximumPoolSize(environment.getProperty(prefix + "_POOL_SIZE", Integer.class, size));
        pool.setMinimumIdle(environment.getProperty(prefix + "_MIN_IDLE", Integer.class, 1));
        pool.setConnectionTimeout(
                environment.getProperty(prefix + "_CONNECTION_TIMEOUT_MS", Long.class, connectionTimeoutMs));
        return pool;
    }

    /**
     * Migrations go directly to PostgreSQL, not through the pooler. Flyway guards them with an
     * advisory lock of its session and sets the session's search path; a pooler in transaction mode
     * may run the next statement in another session, where neither holds, and two replicas that
     * start together would then migrate at once.
     */
    private static Flyway flyway(Environment environment, String prefix, String fallback, String location) {
        DatabaseSettings database =
                DatabaseSettings.of(environment, prefix, DatabaseSettings.of(environment, fallback));
        FluentConfiguration configuration = Flyway.configure()
                .dataSource(database.url(), database.username(), database.password())
                .locations(location)
                .connectRetries(environment.getProperty(prefix + "_CONNECT_RETRIES", Integer.class, 5))
                // One try a second: replicas that lost the race wait for the first one's whole schema.
                .lockRetryCount(300);
        // The lock that Flyway takes by default lives in a transaction which stays open beside the
        // migrations; CREATE INDEX CONCURRENTLY in a later one would wait for it for ever.
        configuration
                .getPluginRegister()
                .getPlugin(PostgreSQLConfigurationExtension.class)
                .setTransactionalLock(false);
        return configuration.load();
    }
}
