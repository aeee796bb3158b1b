// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.audit;

import ca.uhn.fhir.interceptor.api.Hook;
import ca.uhn.fhir.interceptor.api.Interceptor;
import ca.uhn.fhir.interceptor.api.Pointcut;
import ca.uhn.fhir.rest.server.exceptions.BaseServerResponseException;
import jakarta.servlet.http.HttpServletRequest;
import org.springframework.stereotype.Component;

/** Leaves HAPI's reason for a refusal on the request, where the audit filter finds it. */
@Component
@Interceptor
public class RejectionDetail {

    private static final String ATTRIBUTE = RejectionDetail.class.getName();
    private static final int LONGEST = 2000;

    @Hook(Pointcut.SERVER_HANDLE_EXCEPTION)
    public void keep(HttpServletRequest request, BaseServerResponseException exception) {
        request.setAttribute(ATTRIBUTE, exception.getMessage());
    }

    static String of(HttpServletRequest request) {
        if (!(request.getAttribute(ATTRIBUTE) instanceof String message)) {
            return null;
        }
        // HAPI quotes what it was sent, which may hold what PostgreSQL's text cannot.
        String storable = message.replace("\0", "");
        return storable.length() > LONGEST ? storable.substring(0, LONGEST) : storable;
    }
}
