// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi;

import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings;
import ca.uhn.fhir.jpa.api.dao.IFhirSystemDao;
import ca.uhn.fhir.jpa.provider.JpaCapabilityStatementProvider;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.util.ISearchParamRegistry;
import ca.uhn.fhir.util.FhirTerser;
import java.util.Optional;
import org.hl7.fhir.instance.model.api.IBaseConformance;

/** HAPI's CapabilityStatement, which also names the implementation guide that the server holds. */
class IgCapabilityStatementProvider extends JpaCapabilityStatementProvider {

    private final Optional<String> guideCanonical;

    IgCapabilityStatementProvider(
            RestfulServer server,
            IFhirSystemDao<?, ?> systemDao,
            JpaStorageSettings storage,
            ISearchParamRegistry searchParameters,
            IValidationSupport validationSupport,
            Optional<String> guideCanonical) {
        super(server, systemDao, storage, searchParameters, validationSupport);
        this.guideCanonical = guideCanonical;
        setImplementationDescription("BD FHIR National");
    }

    @Override
    protected void postProcess(FhirTerser terser, IBaseConformance statement) {
        super.postProcess(terser, statement);
        guideCanonical.ifPresent(canonical -> terser.addElement(statement, "implementationGuide", canonical));
    }
}
