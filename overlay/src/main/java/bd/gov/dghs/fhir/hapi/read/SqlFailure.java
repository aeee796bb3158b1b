// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.sql.SQLException;
import java.sql.SQLTimeoutException;
import java.sql.SQLTransientConnectionException;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Set;

/** What a failed read says about the standby. */
enum SqlFailure {
    /** Nothing: the primary would answer the same. */
    NONE,
    /** The primary may answer. */
    RETRY,
    /** The primary may answer, and the standby could not be reached or did not answer in time. */
    UNREACHABLE;

    private static final int DEEPEST = 50;

    /**
     * 40001 and 40P01: the standby ended the query, because it stood in the way of the replay. 25006: the
     * read wanted to write. 57014: it took longer than the standby's statement_timeout.
     */
    private static final Set<String> RETRIED = Set.of("40001", "40P01", "25006", "57014");

    private static final Set<String> ENDED = Set.of("57P01", "57P02", "57P03", "57P04", "57P05");

    /**
     * Connections; resources, such as the disk or the slots for connections; the machine under it; damaged
     * data. None of these is the fault of the query.
     */
    private static final Set<String> CLASSES_OF_TROUBLE = Set.of("08", "53", "58", "XX");

    /** @param failures may be null */
    static SqlFailure worstOf(Throwable... failures) {
        return Arrays.stream(failures).map(SqlFailure::of).max(Comparator.naturalOrder()).orElse(NONE);
    }

    static SqlFailure of(Throwable failure) {
        SqlFailure worst = NONE;
        Throwable cause = failure;
        // The limit is for chains that bite their own tail.
        for (int depth = 0; cause != null && depth < DEEPEST; depth++, cause = cause.getCause()) {
            if (cause instanceof SQLException sql) {
                SqlFailure found = ofOne(sql);
                worst = found.compareTo(worst) > 0 ? found : worst;
            }
        }
        return worst;
    }

    private static SqlFailure ofOne(SQLException failure) {
        String state = String.valueOf(failure.getSQLState());
        if (failure instanceof SQLTransientConnectionException || state.startsWith("08") || ENDED.contains(state)) {
            return UNREACHABLE;
        }
        if (failure instanceof SQLTimeoutException
                || failure instanceof StandbyUnfitException
                || RETRIED.contains(state)
                || CLASSES_OF_TROUBLE.stream().anyMatch(state::startsWith)) {
            return RETRY;
        }
        return NONE;
    }
}
