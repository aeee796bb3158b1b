// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.sql.SQLException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class PrimaryPositionTest {

    private static final Duration LONG = Duration.ofSeconds(20);

    private final SlowPrimary source = new SlowPrimary();
    private final PrimaryPosition primary = new PrimaryPosition(source, new LagMeter());

    @AfterEach
    void close() {
        primary.close();
        source.answers.offer(Optional.empty());
    }

    @Test
    void whoComesWhileItAsksGetsTheNextAnswerAndSharesIt() throws Exception {
        primary.start();
        CompletableFuture<Optional<Lsn>> first = ask();
        source.awaitQuestion();
        // The question is under way: what it will say may be older than these.
        List<CompletableFuture<Optional<Lsn>>> later = new ArrayList<>();
        for (int i = 0; i < 50; i++) {
            later.add(ask());
        }
        awaitWaiting(51);
        source.answer(1);
        assertEquals(Optional.of(new Lsn(1)), first.get(20, TimeUnit.SECONDS));
        source.awaitQuestion();
        assertTrue(later.stream().noneMatch(CompletableFuture::isDone));
        source.answer(2);
        for (CompletableFuture<Optional<Lsn>> answer : later) {
            assertEquals(Optional.of(new Lsn(2)), answer.get(20, TimeUnit.SECONDS));
        }
        assertEquals("system 1", primary.cluster());
    }

    @Test
    void aPrimaryThatFailsOrHangsGivesNoAnswer() throws Exception {
        primary.start();
        CompletableFuture<Optional<Lsn>> failed = ask();
        source.awaitQuestion();
        source.answers.put(Optional.empty());
        assertEquals(Optional.empty(), failed.get(20, TimeUnit.SECONDS));
        assertEquals(Optional.empty(), primary.ask(Duration.ofMillis(20)));
    }

    private CompletableFuture<Optional<Lsn>> ask() {
        CompletableFuture<Optional<Lsn>> answer = new CompletableFuture<>();
        Thread asker = new Thread(() -> answer.complete(primary.ask(LONG)), "asker");
        asker.setDaemon(true);
        asker.start();
        return answer;
    }

    private static void awaitWaiting(int askers) throws InterruptedException {
        long deadline = System.nanoTime() + LONG.toNanos();
        while (Thread.getAllStackTraces().keySet().stream()
                        .filter(thread -> thread.getName().equals("asker"))
                        .filter(thread -> thread.getState() == Thread.State.TIMED_WAITING)
                        .count()
                < askers) {
            assertTrue(System.nanoTime() < deadline, "not all are waiting");
            Thread.sleep(5);
        }
    }

    private static final class SlowPrimary implements PrimaryPosition.Source {

        final BlockingQueue<Optional<Lsn>> answers = new LinkedBlockingQueue<>();
        private final BlockingQueue<Boolean> questions = new SynchronousQueue<>();

        @Override
        public PrimaryPosition.Answer ask() throws SQLException {
            try {
                // Nobody takes the questions that nobody waits for.
                questions.offer(true, 20, TimeUnit.SECONDS);
                return new PrimaryPosition.Answer(
                        answers.take().orElseThrow(() -> new SQLException("gone")), "system 1");
            } catch (InterruptedException e) {
                throw new SQLException(e);
            }
        }

        @Override
        public void close() {}

        void awaitQuestion() throws InterruptedException {
            assertTrue(questions.poll(20, TimeUnit.SECONDS) != null, "the primary was not asked");
        }

        void answer(long position) throws InterruptedException {
            answers.put(Optional.of(new Lsn(position)));
        }
    }
}
