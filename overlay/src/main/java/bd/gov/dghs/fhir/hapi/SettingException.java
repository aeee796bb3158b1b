// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi;

/** A setting with which the server cannot start. Its message is all that an operator sees. */
public class SettingException extends RuntimeException {

    private static final long serialVersionUID = 1L;

    public SettingException(String message) {
        super(message);
    }

    public SettingException(String message, Throwable cause) {
        super(message, cause);
    }
}
