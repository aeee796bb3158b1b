// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.rest.server.RestfulServer;
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import com.zaxxer.hikari.metrics.micrometer.MicrometerMetricsTrackerFactory;
import io.micrometer.core.instrument.MeterRegistry;
import jakarta.servlet.Filter;
import java.sql.Connection;
import java.time.Duration;
import java.util.Optional;
import javax.sql.DataSource;
import org.springframework.jdbc.datasource.LazyConnectionDataSourceProxy;

/**
 * All parts of the read routing, put together.
 *
 * <p>It holds its pool and data source itself. As beans they would be found by whoever looks for a data
 * source, first of all by the health check, which would take the server down together with the standby.
 */
public final class ReadRouting implements AutoCloseable {

    private static final int SLOWEST_CHECK_MS = 1_000;

    private final HikariDataSource pool;
    private final DataSource dataSource;
    private final PrimaryPosition primary;
    private final Circuit circuit;
    private final StandbyMonitor monitor;
    private final Filter filter;

    ReadRouting(ReadSettings settings, DataSource primaryPool, FhirContext fhir, MeterRegistry meters) {
        pool = pool(settings, meters);
        dataSource = lazy(new RoutingDataSource(primaryPool, pool));
        LagMeter lag = new LagMeter();
        circuit = new Circuit(System::nanoTime, this::giveUpConnections);
        primary = new PrimaryPosition(new JdbcPrimary(primaryPool), lag);
        monitor = new StandbyMonitor(
                new JdbcStandby(settings.standby(), pool),
                primary::cluster,
                lag,
                circuit,
                settings.maxLag(),
                System::nanoTime);
        ReadMetrics metrics = new ReadMetrics(meters, circuit, monitor);
        ReadGate gate =
                new ReadGate(new ReadPaths(fhir.getResourceTypes()), settings, circuit, monitor, primary, metrics);
        filter = new ReadFilter(gate, primary, circuit, metrics, settings.heldBytes());
        primary.start();
        monitor.start();
    }

    /** For the entity manager factory, and for nothing else. */
    public DataSource dataSource() {
        return dataSource;
    }

    /** Has to be the last filter before the servlet. */
    public Filter filter() {
        return filter;
    }

    /** The server keeps its paging provider. */
    public void prepare(RestfulServer server) {
        server.registerInterceptor(new OffsetPaging());
        server.registerInterceptor(new FailureWitness());
    }

    Circuit.State state() {
        return circuit.state();
    }

    Optional<LagMeter.Lag> lag() {
        return monitor.lag();
    }

    @Override
    public void close() {
        monitor.close();
        primary.close();
        pool.close();
    }

    /** Those in use fail at once instead of after their time-out; none of the others is used again. */
    private void giveUpConnections() {
        Route.cutAll();
        pool.getHikariPoolMXBean().softEvictConnections();
    }

    private static HikariDataSource pool(ReadSettings settings, MeterRegistry meters) {
        HikariConfig config = new HikariConfig();
        config.setPoolName("fhir-read");
        config.setJdbcUrl(settings.standby().url());
        config.setUsername(settings.standby().username());
        config.setPassword(settings.standby().password());
        config.setMaximumPoolSize(settings.poolSize());
        config.setMinimumIdle(1);
        // A standby that was promoted would take a write; its connections from here do not.
        config.setReadOnly(true);
        config.setConnectionTimeout(settings.connectionTimeout().toMillis());
        config.setValidationTimeout(Math.min(settings.connectionTimeout().toMillis(), SLOWEST_CHECK_MS));
        // A missing standby must not keep the server from starting.
        config.setInitializationFailTimeout(-1);
        config.addDataSourceProperty("connectTimeout", seconds(settings.connectionTimeout()));
        config.addDataSourceProperty("loginTimeout", seconds(settings.connectionTimeout()));
        config.addDataSourceProperty("socketTimeout", seconds(settings.socketTimeout()));
        config.setExceptionOverrideClassName(ConnectionWitness.class.getName());
        config.setMetricsTrackerFactory(new MicrometerMetricsTrackerFactory(meters));
        return new HikariDataSource(config);
    }

    private static String seconds(Duration duration) {
        // Rounded up, because none would mean for ever.
        return Long.toString((duration.toMillis() + 999) / 1_000);
    }

    /** The connection is fetched with the first statement, when it is known who needs it. */
    private static DataSource lazy(DataSource target) {
        LazyConnectionDataSourceProxy lazy = new LazyConnectionDataSourceProxy();
        lazy.setTargetDataSource(target);
        // Given, because it would otherwise open a connection to find them out.
        lazy.setDefaultAutoCommit(true);
        lazy.setDefaultTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        lazy.afterPropertiesSet();
        return lazy;
    }
}
