// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import ca.uhn.fhir.interceptor.api.Hook;
import ca.uhn.fhir.interceptor.api.Interceptor;
import ca.uhn.fhir.interceptor.api.Pointcut;
import ca.uhn.fhir.jpa.searchparam.SearchParameterMap;
import ca.uhn.fhir.rest.api.Constants;
import ca.uhn.fhir.rest.api.RequestTypeEnum;
import ca.uhn.fhir.rest.api.RestOperationTypeEnum;
import ca.uhn.fhir.rest.api.SortSpec;
import ca.uhn.fhir.rest.api.server.RequestDetails;
import java.util.Set;
import org.hl7.fhir.instance.model.api.IBaseResource;
import org.hl7.fhir.r4.model.Bundle;
import org.hl7.fhir.r4.model.Bundle.SearchEntryMode;

/**
 * Lets searches and histories that come as GET be paged by offset. HAPI otherwise writes the result of a
 * search to the database for the pages to come, which a standby cannot.
 *
 * <p>The server keeps its paging provider: links to stored results that were given out before go on
 * working, and what cannot be paged by offset, $everything, is cut nowhere. Without a provider, HAPI ends
 * it after one page with no link to a next one.
 */
@Interceptor
public final class OffsetPaging {

    /** The parameters of a POST may not be for a link: it keeps its pages in the database. */
    private static final Set<RequestTypeEnum> READS = Set.of(RequestTypeEnum.GET, RequestTypeEnum.HEAD);

    private static final Set<RestOperationTypeEnum> PAGED = Set.of(
            RestOperationTypeEnum.SEARCH_TYPE,
            RestOperationTypeEnum.HISTORY_INSTANCE,
            RestOperationTypeEnum.HISTORY_TYPE,
            RestOperationTypeEnum.HISTORY_SYSTEM);

    @Hook(Pointcut.SERVER_INCOMING_REQUEST_POST_PROCESSED)
    public void askForTheFirstPage(RequestDetails request) {
        if (!isPaged(request)) {
            return;
        }
        // Without an offset the first page is found by fetching all that match.
        if (!request.getParameters().containsKey(Constants.PARAM_OFFSET)) {
            request.addParameter(Constants.PARAM_OFFSET, new String[] {"0"});
        }
        limitCount(request);
    }

    /**
     * Pages by offset without an order may overlap and leave out. The order by PID is the one that the
     * index has; behind an order of the client's it decides between equals.
     */
    @Hook(Pointcut.STORAGE_PRESEARCH_REGISTERED)
    public void order(SearchParameterMap parameters) {
        if (parameters.getOffset() == null || parameters.getEverythingMode() != null) {
            return;
        }
        SortSpec byPid = new SortSpec(Constants.PARAM_PID);
        SortSpec last = parameters.getSort();
        if (last == null) {
            parameters.setSort(byPid);
            return;
        }
        while (last.getChain() != null) {
            last = last.getChain();
        }
        last.setChain(byPid);
    }

    /** With the last page HAPI tells a total, in which included resources count as results. */
    @Hook(Pointcut.SERVER_OUTGOING_RESPONSE)
    public void correctTotal(RequestDetails request, IBaseResource answer) {
        if (!isPaged(request)
                || request.getRestOperationType() != RestOperationTypeEnum.SEARCH_TYPE
                || request.getParameters().containsKey(Constants.PARAM_SEARCH_TOTAL_MODE)
                || !(answer instanceof Bundle bundle)
                || !bundle.hasTotal()
                // A count that was asked for has no entries.
                || !bundle.hasEntry()) {
            return;
        }
        long included = bundle.getEntry().stream()
                .filter(entry -> entry.getSearch().getMode() != SearchEntryMode.MATCH)
                .count();
        bundle.setTotal(bundle.getTotal() - Math.toIntExact(included));
    }

    private static boolean isPaged(RequestDetails request) {
        return READS.contains(request.getRequestType()) && PAGED.contains(request.getRestOperationType());
    }

    /** HAPI fetches no more than the maximum, but looks for a next page behind the count that was asked for. */
    private static void limitCount(RequestDetails request) {
        String[] counts = request.getParameters().get(Constants.PARAM_COUNT);
        Integer most = request.getServer().getMaximumPageSize();
        if (counts == null || most == null) {
            return;
        }
        for (int i = 0; i < counts.length; i++) {
            // Nine digits or more are past any maximum, and may be past what an int holds.
            if (counts[i].matches("\\d+") && (counts[i].length() > 8 || Integer.parseInt(counts[i]) > most)) {
                counts[i] = most.toString();
            }
        }
    }
}
