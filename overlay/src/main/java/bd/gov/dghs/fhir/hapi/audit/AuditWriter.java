// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.audit;

import io.micrometer.core.instrument.Counter;
import io.micrometer.core.instrument.MeterRegistry;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.concurrent.atomic.AtomicLong;
import javax.sql.DataSource;
import org.flywaydb.core.Flyway;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.springframework.beans.factory.annotation.Qualifier;
import org.springframework.core.NestedExceptionUtils;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.jdbc.datasource.DataSourceTransactionManager;
import org.springframework.stereotype.Component;
import org.springframework.transaction.support.TransactionTemplate;

/** Writes audit rows. A row that cannot be written is counted and logged, never thrown. */
@Component
class AuditWriter {

    private static final Logger LOG = LoggerFactory.getLogger(AuditWriter.class);
    private static final long WARN_EVERY_NANOS = 10_000_000_000L;

    private final JdbcTemplate jdbc;
    private final TransactionTemplate transaction;
    private final Counter failures;
    private final String replica = hostname();
    private final AtomicLong nextWarning = new AtomicLong(System.nanoTime());
    private final AtomicLong unreported = new AtomicLong();

    /** @param schema not used, but the tables have to be there before the first row */
    AuditWriter(
            @Qualifier("auditDataSource") DataSource audit,
            @Qualifier("auditFlyway") Flyway schema,
            MeterRegistry meters) {
        jdbc = new JdbcTemplate(audit);
        // Not a bean: HAPI takes the one transaction manager that it finds.
        transaction = new TransactionTemplate(new DataSourceTransactionManager(audit));
        failures = Counter.builder("audit.insert.failures")
                .description("Requests whose audit row could not be written")
                .register(meters);
    }

    void write(AuditEvent event) {
        try {
            if (event.isRejectedSubmission()) {
                // Both or neither, so that the two tables never tell different stories.
                transaction.executeWithoutResult(status -> {
                    insertEvent(event);
                    insertRejection(event);
                });
            } else {
                insertEvent(event);
            }
        } catch (RuntimeException e) {
            failures.increment();
            warn(event, e);
        }
    }

    private void insertEvent(AuditEvent event) {
        jdbc.update(
                """
                INSERT INTO audit.audit_events
                    (event_time, event_type, outcome, client_id, request_id, method, path, status,
                     resource_type, duration_ms, replica)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
                time(event),
                event.eventType(),
                event.outcome(),
                event.clientId(),
                event.requestId(),
                event.method(),
                event.path(),
                event.status(),
                event.resourceType(),
                event.durationMs(),
                replica);
    }

    private void insertRejection(AuditEvent event) {
        jdbc.update(
                """
                INSERT INTO audit.fhir_rejected_submissions
                    (event_time, client_id, request_id, method, path, status, resource_type, detail, replica)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
                time(event),
                event.clientId(),
                event.requestId(),
                event.method(),
                event.path(),
                event.status(),
                event.resourceType(),
                event.detail(),
                replica);
    }

    /** With the audit side down every request ends here: one line in ten seconds says enough. */
    private void warn(AuditEvent event, RuntimeException cause) {
        unreported.incrementAndGet();
        long due = nextWarning.get();
        long now = System.nanoTime();
        if (now - due < 0 || !nextWarning.compareAndSet(due, now + WARN_EVERY_NANOS)) {
            return;
        }
        LOG.warn(
                "{} audit row(s) lost since the last such line; now {} {} {}, request {}: {}",
                unreported.getAndSet(0),
                event.method(),
                event.path(),
                event.status(),
                event.requestId(),
                // The innermost, because Spring's own only says that something failed; PostgreSQL's
                // goes over several lines.
                String.valueOf(NestedExceptionUtils.getMostSpecificCause(cause).getMessage())
                        .replaceAll("\\s*\\R\\s*", "; "));
    }

    private static OffsetDateTime time(AuditEvent event) {
        return event.time().atOffset(ZoneOffset.UTC);
    }

    private static String hostname() {
        try {
            return InetAddress.getLocalHost().getHostName();
        } catch (UnknownHostException e) {
            return "unknown";
        }
    }
}
