// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi;

import jakarta.servlet.ServletOutputStream;
import jakarta.servlet.WriteListener;
import jakarta.servlet.http.HttpServletResponse;
import jakarta.servlet.http.HttpServletResponseWrapper;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.OutputStreamWriter;
import java.io.PrintWriter;

/**
 * A response whose end does not reach the client before {@link #release()}, and whose beginning does not
 * as long as it is short.
 *
 * <p>HAPI closes the stream when it has written the body, which would complete the answer. Here close and
 * flush do nothing. Up to {@code limit} bytes are kept; a longer body flows on from there, and only its
 * last part and the end wait.
 */
public class HeldResponse extends HttpServletResponseWrapper {

    private final int limit;
    private final Runnable beforeTheFirstByte;
    private final ByteArrayOutputStream kept = new ByteArrayOutputStream();
    private ServletOutputStream stream;
    private PrintWriter writer;
    private boolean passing;

    /** Keeps nothing but the end. */
    public HeldResponse(HttpServletResponse response) {
        this(response, 0, () -> {});
    }

    /** @param beforeTheFirstByte runs once, with the status known and the headers still open */
    public HeldResponse(HttpServletResponse response, int limit, Runnable beforeTheFirstByte) {
        super(response);
        this.limit = limit;
        this.beforeTheFirstByte = beforeTheFirstByte;
    }

    @Override
    public ServletOutputStream getOutputStream() {
        if (stream == null) {
            stream = new HeldStream();
        }
        return stream;
    }

    @Override
    public PrintWriter getWriter() throws IOException {
        if (writer == null) {
            writer = new PrintWriter(new OutputStreamWriter(getOutputStream(), getCharacterEncoding()));
        }
        return writer;
    }

    @Override
    public void flushBuffer() {
        // Held.
    }

    @Override
    public void resetBuffer() {
        super.resetBuffer();
        forget();
    }

    @Override
    public void reset() {
        super.reset();
        forget();
    }

    /** Nothing of the answer has been handed on yet: it can still become another one. */
    public boolean isHeld() {
        return !passing && !isCommitted();
    }

    /** Hands over what is kept; the container completes the answer afterwards. */
    public void release() throws IOException {
        if (writer != null) {
            writer.flush();
        }
        pass();
    }

    private void pass() throws IOException {
        if (passing) {
            return;
        }
        passing = true;
        beforeTheFirstByte.run();
        if (kept.size() > 0) {
            kept.writeTo(getResponse().getOutputStream());
            kept.reset();
        }
    }

    private void forget() {
        kept.reset();
        stream = null;
        writer = null;
    }

    private final class HeldStream extends ServletOutputStream {

        @Override
        public void write(int b) throws IOException {
            write(new byte[] {(byte) b}, 0, 1);
        }

        @Override
        public void write(byte[] bytes, int offset, int length) throws IOException {
            if (!passing && length <= limit - kept.size()) {
                kept.write(bytes, offset, length);
                return;
            }
            pass();
            getResponse().getOutputStream().write(bytes, offset, length);
        }

        @Override
        public void flush() {
            // Held.
        }

        @Override
        public void close() {
            // Held.
        }

        @Override
        public boolean isReady() {
            return true;
        }

        @Override
        public void setWriteListener(WriteListener listener) {
            throw new IllegalStateException("The answer is written by the request's own thread.");
        }
    }
}
