// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.audit;

import org.springframework.boot.web.servlet.FilterRegistrationBean;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;

@Configuration(proxyBeanMethods = false)
class AuditConfig {

    /** Only /fhir: probes and scrapes would bury the clients' requests. */
    @Bean
    FilterRegistrationBean<AuditFilter> auditFilter(AuditWriter writer) {
        FilterRegistrationBean<AuditFilter> filter = new FilterRegistrationBean<>(new AuditFilter(writer));
        filter.addUrlPatterns("/fhir/*");
        return filter;
    }
}
