// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import jakarta.servlet.ServletOutputStream;
import jakarta.servlet.http.HttpServletResponse;
import jakarta.servlet.http.HttpServletResponseWrapper;
import java.io.IOException;
import java.io.PrintWriter;

/** Puts something on an answer when its work is done and nothing of it was sent: right before the body, or at the end without one. */
class MarkedResponse extends HttpServletResponseWrapper {

    private final Runnable mark;
    private boolean marked;

    MarkedResponse(HttpServletResponse response, Runnable mark) {
        super(response);
        this.mark = mark;
    }

    @Override
    public ServletOutputStream getOutputStream() throws IOException {
        end();
        return super.getOutputStream();
    }

    @Override
    public PrintWriter getWriter() throws IOException {
        end();
        return super.getWriter();
    }

    void end() {
        if (!marked) {
            marked = true;
            mark.run();
        }
    }
}
