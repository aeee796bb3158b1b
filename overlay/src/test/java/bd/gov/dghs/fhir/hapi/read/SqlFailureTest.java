// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;

import ca.uhn.fhir.rest.server.exceptions.InternalErrorException;
import java.net.SocketTimeoutException;
import java.sql.SQLException;
import java.sql.SQLTimeoutException;
import java.sql.SQLTransientConnectionException;
import org.hibernate.exception.GenericJDBCException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.springframework.transaction.CannotCreateTransactionException;

class SqlFailureTest {

    @ParameterizedTest
    @CsvSource({
        "40001, RETRY",
        "40P01, RETRY",
        "25006, RETRY",
        "57014, RETRY",
        "53100, RETRY",
        "53300, RETRY",
        "58030, RETRY",
        "XX001, RETRY",
        "57P01, UNREACHABLE",
        "57P02, UNREACHABLE",
        "57P03, UNREACHABLE",
        "08001, UNREACHABLE",
        "08006, UNREACHABLE",
        "08P01, UNREACHABLE",
        "23505, NONE",
        "42P01, NONE",
        "22001, NONE",
        "'', NONE",
        ", NONE",
    })
    void theStateDecides(String state, SqlFailure expected) {
        assertEquals(expected, SqlFailure.of(wrapped(new SQLException("x", state))));
    }

    @Test
    void timeOutsAreFailuresOfTheStandby() {
        assertEquals(
                SqlFailure.UNREACHABLE,
                SqlFailure.of(wrapped(new SQLTransientConnectionException("fhir-read - Connection is not available"))));
        assertEquals(
                SqlFailure.UNREACHABLE,
                SqlFailure.of(wrapped(new SQLException("I/O", "08006", new SocketTimeoutException("Read timed out")))));
        assertEquals(SqlFailure.RETRY, SqlFailure.of(wrapped(new SQLTimeoutException("slow"))));
        assertEquals(SqlFailure.RETRY, SqlFailure.of(wrapped(new StandbyUnfitException("behind"))));
    }

    @Test
    void whatIsNoFailureOfADatabaseIsNone() {
        assertEquals(SqlFailure.NONE, SqlFailure.of(null));
        assertEquals(SqlFailure.NONE, SqlFailure.of(new IllegalStateException("08006")));
    }

    @Test
    void aChainThatBitesItsTailEnds() {
        Exception first = new Exception("first");
        Exception second = new Exception("second", first);
        first.initCause(second);
        assertEquals(SqlFailure.NONE, SqlFailure.of(first));
    }

    private static Exception wrapped(SQLException cause) {
        return new InternalErrorException(new CannotCreateTransactionException(
                "no transaction", new GenericJDBCException("Unable to acquire JDBC Connection", cause)));
    }
}
