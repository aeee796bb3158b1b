// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.springframework.mock.web.MockHttpServletResponse;

class HeldResponseTest {

    private final MockHttpServletResponse client = new MockHttpServletResponse();
    private final List<String> atTheFirstByte = new ArrayList<>();

    @Test
    void aShortAnswerCanStillBecomeAnotherOne() throws Exception {
        HeldResponse held = held(10);
        held.setStatus(500);
        held.getWriter().write("0123456789");
        held.getWriter().close();
        assertTrue(held.isHeld());
        assertEquals(0, client.getContentAsByteArray().length);

        held.reset();
        held.getWriter().write("better");
        held.release();

        assertEquals(200, client.getStatus());
        assertEquals("better", client.getContentAsString());
        assertEquals(List.of("nothing sent"), atTheFirstByte);
    }

    @Test
    void aLongAnswerFlowsOnFromTheLimit() throws Exception {
        HeldResponse held = held(10);
        held.getOutputStream().write(new byte[10]);
        assertTrue(held.isHeld());
        held.getOutputStream().write(1);
        assertFalse(held.isHeld());
        assertEquals(11, client.getContentAsByteArray().length);
        held.getOutputStream().write(new byte[5]);
        held.release();
        assertEquals(16, client.getContentAsByteArray().length);
        assertEquals(1, atTheFirstByte.size());
    }

    @Test
    void anAnswerWithoutABodyIsAnnouncedToo() throws Exception {
        held(0).release();
        assertEquals(1, atTheFirstByte.size());
    }

    private HeldResponse held(int limit) {
        return new HeldResponse(client, limit, () -> atTheFirstByte.add(
                client.getContentAsByteArray().length == 0 ? "nothing sent" : "too late"));
    }
}
