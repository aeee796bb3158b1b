// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import ca.uhn.fhir.context.FhirContext;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.binder.MeterBinder;
import jakarta.servlet.Filter;
import java.util.Locale;
import javax.sql.DataSource;
import org.springframework.boot.actuate.health.Health;
import org.springframework.boot.actuate.health.HealthIndicator;
import org.springframework.boot.web.servlet.FilterRegistrationBean;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Condition;
import org.springframework.context.annotation.ConditionContext;
import org.springframework.context.annotation.Conditional;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.Ordered;
import org.springframework.core.env.Environment;
import org.springframework.core.type.AnnotatedTypeMetadata;

/** Reads from a standby, if there is one: without HAPI_DATASOURCE_READ_URL there is nothing here but a gauge. */
@Configuration(proxyBeanMethods = false)
class ReadConfig {

    static final class On implements Condition {

        @Override
        public boolean matches(ConditionContext context, AnnotatedTypeMetadata metadata) {
            return ReadSettings.isOn(context.getEnvironment());
        }
    }

    @Bean
    MeterBinder readRoutingEnabled(Environment environment) {
        return meters -> ReadMetrics.enabled(meters, ReadSettings.isOn(environment));
    }

    @Bean
    @Conditional(On.class)
    ReadRouting readRouting(Environment environment, DataSource primary, FhirContext fhir, MeterRegistry meters) {
        return new ReadRouting(ReadSettings.of(environment), primary, fhir, meters);
    }

    @Bean
    @Conditional(On.class)
    FilterRegistrationBean<Filter> readFilter(ReadRouting reads) {
        FilterRegistrationBean<Filter> filter = new FilterRegistrationBean<>(reads.filter());
        filter.addUrlPatterns("/fhir/*");
        filter.setOrder(Ordered.LOWEST_PRECEDENCE);
        return filter;
    }

    /** Tells about the standby and never fails: the server serves without it. */
    @Bean
    @Conditional(On.class)
    HealthIndicator readStandbyHealthIndicator(ReadRouting reads) {
        return () -> {
            Circuit.State state = reads.state();
            Health.Builder health = Health.up()
                    .withDetail("reads", state.isUp() ? "standby" : "primary")
                    .withDetail("standby", state.kind().name().toLowerCase(Locale.ROOT));
            if (!state.isUp()) {
                health.withDetail("why", state.why());
            }
            reads.lag().ifPresent(lag -> health.withDetail("lagSeconds", lag.seconds())
                    .withDetail("lagBytes", lag.bytes()));
            return health.build();
        };
    }
}
