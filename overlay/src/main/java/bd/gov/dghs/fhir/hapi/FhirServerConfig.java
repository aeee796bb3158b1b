// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi;

import bd.gov.dghs.fhir.hapi.audit.RejectionDetail;
import bd.gov.dghs.fhir.hapi.ig.IgPackage;
import bd.gov.dghs.fhir.hapi.ig.IgSettings;
import bd.gov.dghs.fhir.hapi.read.ReadRouting;
import ca.uhn.fhir.batch2.jobs.config.Batch2JobsConfig;
import ca.uhn.fhir.batch2.jobs.export.BulkDataExportProvider;
import ca.uhn.fhir.batch2.jobs.reindex.ReindexProvider;
import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings;
import ca.uhn.fhir.jpa.api.config.ThreadPoolFactoryConfig;
import ca.uhn.fhir.jpa.api.dao.IFhirSystemDao;
import ca.uhn.fhir.jpa.batch2.JpaBatch2Config;
import ca.uhn.fhir.jpa.config.HapiJpaConfig;
import ca.uhn.fhir.jpa.config.r4.JpaR4Config;
import ca.uhn.fhir.jpa.config.util.HapiEntityManagerFactoryUtil;
import ca.uhn.fhir.jpa.model.config.PartitionSettings;
import ca.uhn.fhir.jpa.model.dialect.HapiFhirPostgresDialect;
import ca.uhn.fhir.jpa.provider.JpaSystemProvider;
import ca.uhn.fhir.jpa.provider.ValueSetOperationProvider;
import ca.uhn.fhir.jpa.search.DatabaseBackedPagingProvider;
import ca.uhn.fhir.jpa.subscription.channel.config.SubscriptionChannelConfig;
import ca.uhn.fhir.jpa.subscription.submit.config.SubscriptionSubmitterConfig;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.provider.ResourceProviderFactory;
import ca.uhn.fhir.rest.server.util.ISearchParamRegistry;
import jakarta.persistence.EntityManagerFactory;
import java.util.Properties;
import javax.sql.DataSource;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;
import org.springframework.boot.web.context.WebServerGracefulShutdownLifecycle;
import org.springframework.boot.web.servlet.ServletRegistrationBean;
import org.springframework.context.SmartLifecycle;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.DependsOn;
import org.springframework.context.annotation.Import;
import org.springframework.context.annotation.Primary;
import org.springframework.core.env.Environment;
import org.springframework.core.io.ResourceLoader;
import org.springframework.orm.jpa.JpaTransactionManager;
import org.springframework.orm.jpa.LocalContainerEntityManagerFactoryBean;

/** HAPI's JPA server for R4, as HAPI configures it, under /fhir. */
@Configuration(proxyBeanMethods = false)
@Import({
    JpaR4Config.class,
    HapiJpaConfig.class,
    JpaBatch2Config.class,
    Batch2JobsConfig.class,
    ThreadPoolFactoryConfig.class,
    SubscriptionSubmitterConfig.class,
    SubscriptionChannelConfig.class,
})
class FhirServerConfig {

    @Bean
    JpaStorageSettings storageSettings() {
        return new JpaStorageSettings();
    }

    @Bean
    PartitionSettings partitionSettings() {
        return new PartitionSettings();
    }

    @Bean
    IgSettings igSettings(Environment environment, ResourceLoader resources) {
        return IgSettings.of(environment, resources);
    }

    @Bean
    @Primary
    @DependsOn("fhirFlyway")
    LocalContainerEntityManagerFactoryBean entityManagerFactory(
            ConfigurableListableBeanFactory beans,
            FhirContext fhir,
            JpaStorageSettings storage,
            DataSource dataSource,
            ObjectProvider<ReadRouting> reads,
            Environment environment) {
        LocalContainerEntityManagerFactoryBean factory =
                HapiEntityManagerFactoryUtil.newEntityManagerFactory(beans, fhir, storage);
        factory.setPersistenceUnitName("fhir");
        factory.setDataSource(dataSource);
        reads.ifAvailable(routing -> factory.setDataSource(routing.dataSource()));
        Properties jpa = new Properties();
        jpa.setProperty("hibernate.dialect", HapiFhirPostgresDialect.class.getName());
        // Flyway owns the schema. "validate" is for a check by hand after a HAPI update; "update"
        // would change tables behind Flyway's back.
        jpa.setProperty("hibernate.hbm2ddl.auto", environment.getProperty("HAPI_HBM2DDL_AUTO", "none"));
        jpa.setProperty("hibernate.search.enabled", "false");
        jpa.setProperty("hibernate.jdbc.batch_size", "20");
        jpa.setProperty("hibernate.cache.use_query_cache", "false");
        jpa.setProperty("hibernate.cache.use_second_level_cache", "false");
        factory.setJpaProperties(jpa);
        return factory;
    }

    @Bean
    @Primary
    JpaTransactionManager transactionManager(EntityManagerFactory entityManagerFactory) {
        return new JpaTransactionManager(entityManagerFactory);
    }

    @Bean
    RestfulServer restfulServer(
            FhirContext fhir,
            ResourceProviderFactory resourceProviders,
            JpaSystemProvider<?, ?> systemProvider,
            ValueSetOperationProvider valueSetOperations,
            BulkDataExportProvider bulkExport,
            ReindexProvider reindex,
            IFhirSystemDao<?, ?> systemDao,
            JpaStorageSettings storage,
            ISearchParamRegistry searchParameters,
            IValidationSupport validationSupport,
            DatabaseBackedPagingProvider paging,
            RejectionDetail rejectionDetail,
            ObjectProvider<ReadRouting> reads,
            IgSettings ig) {
        RestfulServer server = new RestfulServer(fhir);
        server.setServerName("BD FHIR National");
        // Without a version of ours HAPI answers with its own.
        ig.version().ifPresent(server::setServerVersion);
        server.registerProviders(resourceProviders.createProviders());
        // The factory makes the resources' providers only; operations stand apart.
        server.registerProviders(systemProvider, valueSetOperations, bulkExport, reindex);
        server.setPagingProvider(paging);
        server.registerInterceptor(rejectionDetail);
        reads.ifAvailable(routing -> routing.prepare(server));
        server.setServerConformanceProvider(new IgCapabilityStatementProvider(
                server,
                systemDao,
                storage,
                searchParameters,
                validationSupport,
                ig.guide().map(IgPackage::guideCanonical)));
        return server;
    }

    @Bean
    ServletRegistrationBean<RestfulServer> fhirServlet(RestfulServer server) {
        ServletRegistrationBean<RestfulServer> servlet = new ServletRegistrationBean<>(server, "/fhir/*");
        servlet.setName("fhir");
        // Initialised at the start, so that readiness is not announced before it.
        servlet.setLoadOnStartup(1);
        return servlet;
    }

    /**
     * HAPI reads the search parameters with the first request that needs them: under one lock, and with a
     * second connection. As many first writes at once as the pool has connections would then wait for each
     * other for ten minutes. So they are read before the port is opened: whoever sends to a published port
     * does not ask for readiness first.
     */
    @Bean
    SmartLifecycle searchParametersBeforeTheFirstRequest(ISearchParamRegistry searchParameters) {
        return new SmartLifecycle() {

            private volatile boolean running;

            @Override
            public void start() {
                searchParameters.forceRefresh();
                running = true;
            }

            @Override
            public void stop() {
                running = false;
            }

            @Override
            public boolean isRunning() {
                return running;
            }

            @Override
            public int getPhase() {
                // The web server starts 1024 before this one, and what has the lower phase starts first.
                return WebServerGracefulShutdownLifecycle.SMART_LIFECYCLE_PHASE - 2048;
            }
        };
    }
}
