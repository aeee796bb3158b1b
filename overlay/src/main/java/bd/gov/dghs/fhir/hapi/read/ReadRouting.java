// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import ca.uhn.fhir.rest.server.RestfulServer;
import com.zaxxer.hikari.HikariDataSource;
import io.micrometer.core.instrument.MeterRegistry;
import jakarta.servlet.Filter;
import java.sql.SQLException;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import javax.sql.DataSource;
import org.springframework.jdbc.datasource.LazyConnectionDataSourceProxy;

/**
 * The read data source as one part: off, or a pool to a standby with the threads that watch it.
 *
 * <p>Its pool is no bean on purpose: the health of this server is that of the primary, without which
 * it is of no use, and not that of a standby, without which it serves all the same.
 */
public final class ReadRouting implements AutoCloseable {

    private static final long LOOK_MS = 1000;
    private static final long LOOK_WAITED_FOR_MS = 4;

    private final DataSource jpa;
    private final ReadSettings settings;
    private final HikariDataSource pool;
    private final Positions positions;
    private final Standby standby;
    private final PrimaryPosition primary;
    private final ExecutorService threads;

    private ReadRouting(DataSource jpa) {
        this.jpa = jpa;
        this.settings = null;
        this.pool = null;
        this.positions = null;
        this.standby = null;
        this.primary = null;
        this.threads = null;
    }

    private ReadRouting(DataSource primaryPool, HikariDataSource pool, Positions positions, ReadSettings settings) {
        this.settings = settings;
        this.pool = pool;
        this.positions = positions;
        // Without the lazy proxy a transaction would have its connection before it is known what it does.
        this.jpa = new LazyConnectionDataSourceProxy(new RoutingDataSource(primaryPool, pool));
        this.standby = new Standby(positions, settings.maxLagSeconds(), System::nanoTime);
        this.threads = Executors.newCachedThreadPool(work -> {
            Thread thread = new Thread(work, "read-routing");
            thread.setDaemon(true);
            return thread;
        });
        this.primary = new PrimaryPosition(positions, standby, threads);
        threads.execute(this::watchStandby);
        threads.execute(this::watchPrimary);
    }

    static ReadRouting off(DataSource primaryPool) {
        return new ReadRouting(primaryPool);
    }

    static ReadRouting on(DataSource primaryPool, HikariDataSource pool, Positions positions, ReadSettings settings) {
        return new ReadRouting(primaryPool, pool, positions, settings);
    }

    /** The data source for JPA. */
    public DataSource jpaDataSource() {
        return jpa;
    }

    public boolean enabled() {
        return settings != null;
    }

    /** Pages by offset, which write nothing, and HAPI's failures told to the filter. */
    public void applyTo(RestfulServer server) {
        server.setPagingProvider(null);
        server.setDefaultPageSize(settings.pageSize());
        server.setMaximumPageSize(settings.maxPageSize());
        server.registerInterceptor(new StandbyFailure());
    }

    Optional<Standby> standby() {
        return Optional.ofNullable(standby);
    }

    Filter filter(Set<String> types, MeterRegistry meters) {
        return new ReadRoutingFilter(settings, standby, primary, types, meters);
    }

    private void watchStandby() {
        try {
            while (!Thread.currentThread().isInterrupted()) {
                standby.look();
                standby.pause(LOOK_MS, LOOK_WAITED_FOR_MS);
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    /** A standby that nobody reads has a lag too. */
    private void watchPrimary() {
        try {
            while (!Thread.currentThread().isInterrupted()) {
                try {
                    primary.ask(2 * LOOK_MS);
                } catch (SQLException e) {
                    // The standby's lag is then told from what is known.
                }
                Thread.sleep(LOOK_MS);
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    @Override
    public void close() {
        if (threads != null) {
            threads.shutdownNow();
            positions.close();
            pool.close();
        }
    }
}
