// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;

import ca.uhn.fhir.rest.server.exceptions.InternalErrorException;
import java.net.SocketTimeoutException;
import java.sql.SQLException;
import java.sql.SQLTransientConnectionException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.springframework.mock.web.MockHttpServletRequest;

class StandbyFailureTest {

    private final MockHttpServletRequest request = new MockHttpServletRequest();

    @AfterEach
    void leave() {
        Route.leave();
    }

    @ParameterizedTest
    @CsvSource({
        "40001, READ", "25006, READ", "57P01, STANDBY", "57P02, STANDBY", "57P03, STANDBY", "57014, STANDBY", "08006, STANDBY",
        "08001, STANDBY", "42P01, NONE", "23505, NONE", ", NONE",
    })
    void byItsStateHoweverDeepItIs(String state, StandbyFailure.Kind kind) {
        Throwable failure =
                new InternalErrorException("x", new RuntimeException(new IllegalStateException(new SQLException("y", state))));

        assertEquals(kind, StandbyFailure.kind(failure));
    }

    @Test
    void aPoolWithoutAConnectionAndASilentServerAreTheStandbys() {
        assertEquals(StandbyFailure.Kind.STANDBY, StandbyFailure.kind(new SQLTransientConnectionException("no connection in 1000 ms")));
        assertEquals(StandbyFailure.Kind.STANDBY, StandbyFailure.kind(new SQLException(new SocketTimeoutException())));
        assertEquals(StandbyFailure.Kind.NONE, StandbyFailure.kind(new InternalErrorException("a fault of ours")));
    }

    @Test
    void aCircleOfCausesEnds() {
        Exception first = new Exception();
        Exception second = new Exception(first);
        first.initCause(second);

        assertEquals(StandbyFailure.Kind.NONE, StandbyFailure.kind(first));
    }

    @Test
    void onlyWhatWasSentToTheStandbyIsBlamedOnIt() {
        StandbyFailure hook = new StandbyFailure();
        hook.keep(new SQLException("x", "57P01"), request);
        assertEquals(StandbyFailure.Kind.NONE, StandbyFailure.seen(request));

        Route.take(Route.STANDBY);
        hook.keep(new SQLException("x", "57P01"), request);
        assertEquals(StandbyFailure.Kind.STANDBY, StandbyFailure.seen(request));
    }
}
