// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import bd.gov.dghs.fhir.hapi.DatabaseSettings;
import ca.uhn.fhir.context.FhirContext;
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import io.micrometer.core.instrument.Gauge;
import io.micrometer.core.instrument.MeterRegistry;
import jakarta.servlet.Filter;
import org.springframework.boot.actuate.health.Health;
import org.springframework.boot.actuate.health.HealthIndicator;
import org.springframework.boot.web.servlet.FilterRegistrationBean;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.Ordered;
import org.springframework.core.env.Environment;

/** A read data source, off unless HAPI_DATASOURCE_READ_URL is set. */
@Configuration(proxyBeanMethods = false)
class ReadConfig {

    private static final String READ = "HAPI_DATASOURCE_READ";

    @Bean
    ReadRouting readRouting(Environment environment, HikariDataSource fhirDataSource, MeterRegistry meters) {
        if (!ReadSettings.configured(environment)) {
            return ReadRouting.off(fhirDataSource);
        }
        ReadSettings settings = ReadSettings.of(environment);
        DatabaseSettings standby =
                DatabaseSettings.of(environment, READ, DatabaseSettings.of(environment, "HAPI_DATASOURCE"));
        HikariConfig pool = new HikariConfig();
        pool.setPoolName("fhir-read");
        pool.setJdbcUrl(standby.url());
        pool.setUsername(standby.username());
        pool.setPassword(standby.password());
        pool.setMaximumPoolSize(settings.poolSize());
        pool.setMinimumIdle(1);
        pool.setConnectionTimeout(settings.connectionTimeoutMs());
        pool.setValidationTimeout(Math.min(1000, settings.connectionTimeoutMs()));
        // A standby that is not there must not keep this server from starting.
        pool.setInitializationFailTimeout(-1);
        pool.addDataSourceProperty("socketTimeout", String.valueOf(settings.socketTimeoutS()));
        pool.addDataSourceProperty("connectTimeout", "2");
        pool.setMetricRegistry(meters);
        return ReadRouting.on(fhirDataSource, new HikariDataSource(pool), new DatabasePositions(fhirDataSource, standby), settings);
    }

    /** Always there: that it says 0 tells from outside that this image could route reads. */
    @Bean
    Gauge readRoutingEnabled(ReadRouting routing, MeterRegistry meters) {
        routing.standby().ifPresent(standby -> {
            Gauge.builder("fhir.read.standby.up", standby, item -> item.isUp() ? 1 : 0)
                    .description("Whether reads go to the standby")
                    .register(meters);
            Gauge.builder("fhir.read.standby.lag.seconds", standby, Standby::lagSeconds)
                    .description("How long the standby is behind the primary, NaN as long as that is not known")
                    .register(meters);
            Gauge.builder("fhir.read.standby.lag.bytes", standby, Standby::lagBytes)
                    .description("How many bytes of WAL the standby is behind, NaN as long as that is not known")
                    .register(meters);
        });
        return Gauge.builder("fhir.read.routing.enabled", routing, item -> item.enabled() ? 1 : 0)
                .description("Whether a read data source is configured")
                .register(meters);
    }

    /** Never down: without its standby this server serves from the primary. */
    @Bean
    HealthIndicator readStandbyHealthIndicator(ReadRouting routing) {
        return () -> routing.standby()
                .map(standby -> Health.up()
                        .withDetail("standby", standby.isUp() ? "up" : "out")
                        .withDetail("why", standby.why())
                        .withDetail("lag_seconds", standby.lagSeconds())
                        .build())
                .orElseGet(() -> Health.up().withDetail("standby", "not configured").build());
    }

    @Bean
    FilterRegistrationBean<Filter> readRoutingFilter(ReadRouting routing, FhirContext fhir, MeterRegistry meters) {
        FilterRegistrationBean<Filter> registration = new FilterRegistrationBean<>();
        registration.setEnabled(routing.enabled());
        registration.setFilter(
                routing.enabled() ? routing.filter(fhir.getResourceTypes(), meters) : (request, response, chain) -> chain.doFilter(request, response));
        registration.addUrlPatterns("/fhir/*");
        // The last one: it lets the servlet serve a request a second time, and that is one request for the audit.
        registration.setOrder(Ordered.LOWEST_PRECEDENCE);
        return registration;
    }
}
