// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;

import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.jpa.searchparam.SearchParameterMap;
import ca.uhn.fhir.rest.api.RequestTypeEnum;
import ca.uhn.fhir.rest.api.RestOperationTypeEnum;
import ca.uhn.fhir.rest.api.SortSpec;
import ca.uhn.fhir.rest.api.server.RequestDetails;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.servlet.ServletRequestDetails;
import java.util.HashMap;
import org.hl7.fhir.r4.model.Bundle;
import org.hl7.fhir.r4.model.Bundle.SearchEntryMode;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class OffsetPagingTest {

    private final OffsetPaging paging = new OffsetPaging();

    @ParameterizedTest
    @CsvSource({
        "GET, SEARCH_TYPE, true",
        "HEAD, SEARCH_TYPE, true",
        "GET, HISTORY_SYSTEM, true",
        "GET, HISTORY_INSTANCE, true",
        "POST, SEARCH_TYPE, false",
        "GET, GET_PAGE, false",
        "GET, READ, false",
        "GET, EXTENDED_OPERATION_INSTANCE, false",
    })
    void whatHasPagesIsPagedByOffset(RequestTypeEnum method, RestOperationTypeEnum operation, boolean paged) {
        RequestDetails request = request(method, operation);
        paging.askForTheFirstPage(request);
        assertEquals(paged, request.getParameters().containsKey("_offset"));
    }

    @ParameterizedTest
    @CsvSource({"20, 20", "50, 50", "51, 50", "99999999999, 50", "0, 0", "-1, -1", "x, x"})
    void noCountIsPastTheMaximum(String sent, String seen) {
        RequestDetails request = request(RequestTypeEnum.GET, RestOperationTypeEnum.SEARCH_TYPE);
        request.addParameter("_count", new String[] {sent});
        request.addParameter("_offset", new String[] {"30"});
        paging.askForTheFirstPage(request);
        assertArrayEquals(new String[] {seen}, request.getParameters().get("_count"));
        assertArrayEquals(new String[] {"30"}, request.getParameters().get("_offset"));
    }

    @Test
    void pagesByOffsetHaveAnOrder() {
        SearchParameterMap unsorted = searchFrom(0);
        paging.order(unsorted);
        assertEquals("_pid", unsorted.getSort().getParamName());

        SearchParameterMap sorted = searchFrom(10);
        sorted.setSort(new SortSpec("family").setChain(new SortSpec("given")));
        paging.order(sorted);
        assertEquals("family", sorted.getSort().getParamName());
        assertEquals("_pid", sorted.getSort().getChain().getChain().getParamName());

        SearchParameterMap stored = new SearchParameterMap();
        paging.order(stored);
        assertNull(stored.getSort());
    }

    @Test
    void includedResourcesDoNotCountAsResults() {
        RequestDetails request = request(RequestTypeEnum.GET, RestOperationTypeEnum.SEARCH_TYPE);
        Bundle bundle = bundle();
        paging.correctTotal(request, bundle);
        assertEquals(31, bundle.getTotal());

        request.addParameter("_total", new String[] {"accurate"});
        Bundle counted = bundle();
        paging.correctTotal(request, counted);
        assertEquals(32, counted.getTotal());

        RequestDetails history = request(RequestTypeEnum.GET, RestOperationTypeEnum.HISTORY_TYPE);
        paging.correctTotal(history, counted);
        assertEquals(32, counted.getTotal());
    }

    private static Bundle bundle() {
        Bundle bundle = new Bundle().setTotal(32);
        bundle.addEntry().getSearch().setMode(SearchEntryMode.MATCH);
        bundle.addEntry().getSearch().setMode(SearchEntryMode.INCLUDE);
        return bundle;
    }

    private static SearchParameterMap searchFrom(int offset) {
        SearchParameterMap parameters = new SearchParameterMap();
        parameters.setOffset(offset);
        return parameters;
    }

    private static RequestDetails request(RequestTypeEnum method, RestOperationTypeEnum operation) {
        RestfulServer server = new RestfulServer(FhirContext.forR4Cached());
        server.setMaximumPageSize(50);
        ServletRequestDetails request = new ServletRequestDetails();
        request.setServer(server);
        request.setRequestType(method);
        request.setRestOperationType(operation);
        request.setParameters(new HashMap<>());
        assertFalse(request.getParameters().containsKey("_offset"));
        return request;
    }
}
