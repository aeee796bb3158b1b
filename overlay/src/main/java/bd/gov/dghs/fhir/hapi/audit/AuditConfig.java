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
        // Around the filter of the read routing, which may run a request twice: it is one request here.
        filter.setOrder(Ordered.LOWEST_PRECEDENCE - 100);
        return filter;
    }
}
