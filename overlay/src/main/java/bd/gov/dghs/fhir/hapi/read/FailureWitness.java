// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import ca.uhn.fhir.interceptor.api.Hook;
import ca.uhn.fhir.interceptor.api.Interceptor;
import ca.uhn.fhir.interceptor.api.Pointcut;
import jakarta.servlet.http.HttpServletRequest;

/** Leaves the failure that HAPI makes an answer of on the request, where the filter finds it. */
@Interceptor
public final class FailureWitness {

    private static final String ATTRIBUTE = FailureWitness.class.getName();

    @Hook(Pointcut.SERVER_PRE_PROCESS_OUTGOING_EXCEPTION)
    public void keep(HttpServletRequest request, Throwable failure) {
        request.setAttribute(ATTRIBUTE, failure);
    }

    static Throwable take(HttpServletRequest request) {
        Throwable failure = (Throwable) request.getAttribute(ATTRIBUTE);
        request.removeAttribute(ATTRIBUTE);
        return failure;
    }
}
