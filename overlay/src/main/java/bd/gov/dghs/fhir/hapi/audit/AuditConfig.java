// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.audit;

import org.springframework.boot.web.servlet.FilterRegistrationBean;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.Ordered;

@Configuration(proxyBeanMethods = false)
class AuditConfig {

    /** Only /fhir: probes and scrapes would bury the clients' requests. */
    @Bean
    FilterRegistrationBean<AuditFilter> auditFilter(AuditWriter writer) {
        FilterRegistrationBean<AuditFilter> filter = new FilterRegistrationBean<>(new AuditFilter(writer));
        filter.addUrlPatterns("/fhir/*");
        // Outside of the one that may let the servlet serve a request twice.
        filter.setOrder(Ordered.LOWEST_PRECEDENCE - 10);
        return filter;
    }
}
