// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.autoconfigure.elasticsearch.ElasticsearchRestClientAutoConfiguration;
import org.springframework.boot.autoconfigure.flyway.FlywayAutoConfiguration;
import org.springframework.boot.autoconfigure.orm.jpa.HibernateJpaAutoConfiguration;
import org.springframework.boot.autoconfigure.quartz.QuartzAutoConfiguration;
import org.springframework.boot.autoconfigure.thymeleaf.ThymeleafAutoConfiguration;

/**
 * The national FHIR server: HAPI FHIR JPA R4 with an audit trail in a database of its own.
 *
 * <p>The excluded auto-configurations are those that would react to libraries which HAPI brings and
 * configures itself, or that assume a single database.
 */
@SpringBootApplication(
        exclude = {
            HibernateJpaAutoConfiguration.class,
            FlywayAutoConfiguration.class,
            QuartzAutoConfiguration.class,
            ElasticsearchRestClientAutoConfiguration.class,
            ThymeleafAutoConfiguration.class,
        })
public class HapiApplication {

    public static void main(String[] args) {
        SpringApplication.run(HapiApplication.class, args);
    }
}
