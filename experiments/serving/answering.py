"""The thread that moves the slots of a model: it takes requests from a queue of limited length, and tells of tokens."""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from kleiber.experiments.serving.asked import RefusedError
from kleiber.model.decode.batching import Engine
from kleiber.model.decode.inference import Request

STEPS = 8
"""Tokens of each row between two looks at who has come and who has gone."""

Listener = Callable[[list[int], bool, str], None]
"""Told of new tokens, whether the answer has ended, and what went wrong, if anything did; called by the thread."""


class Ticket:
    """One request on its way."""

    def __init__(self, request: Request, listener: Listener):
        self.request, self.listener = request, listener
        self.is_dropped = False


class Answering:
    """Requests in, tokens out."""

    def __init__(self, engine: Engine, most_waiting: int):
        """Starts nothing yet.

        Args:
          engine: of the model; nobody else moves it.
          most_waiting: requests that may wait for a slot.
        """
        self.engine, self.most_waiting = engine, most_waiting
        self.problem = ""
        """Why nothing is answered any more."""
        self._waiting: deque[Ticket] = deque()
        self._running: dict[int, Ticket] = {}
        self._changed, self._is_closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="kleiber-answers", daemon=True)

    def start(self) -> None:
        """Answers from now on."""
        self._thread.start()

    def close(self) -> None:
        """Answers no more; requests on their way are told so."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def load(self) -> tuple[int, int]:
        """Requests that are being answered, and that wait."""
        with self._changed:
            return len(self._running), len(self._waiting)

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Takes all of some requests, in this order.

        Raises:
          RefusedError: more would wait than may, or the thread has ended.
        """
        with self._changed:
            if self.problem or self._is_closed:
                raise RefusedError(503, self.problem or "the server is ending.", None, "unavailable")
            free = self.engine.num_slots - len(self._running)
            if len(self._waiting) + len(tickets) > free + self.most_waiting:
                told = f"{len(self._running)} requests are being answered and {len(self._waiting)} wait; try later."
                raise RefusedError(429, told, None, "queue_full")
            self._waiting.extend(tickets)
            self._changed.notify()

    def drop(self, ticket: Ticket) -> None:
        """Answers a request no further; it is told nothing more."""
        with self._changed:
            ticket.is_dropped = True
            self._changed.notify()

    def _work(self) -> None:
        try:
            while self._take_in():
                self._move()
        except Exception as problem:  # of any kind: who waits must be told
            self.problem = f"the model failed: {problem}"
        with self._changed:
            left = [*self._running.values(), *self._waiting]
            self._is_closed = True
        for ticket in left:
            ticket.listener([], True, self.problem or "the server is ending.")

    def _take_in(self) -> bool:
        """Frees the slots of who has gone and fills free ones; waits while there is nothing to do. Returns whether to
        go on."""
        with self._changed:
            while True:
                if self._is_closed:
                    return False
                for slot in [slot for slot, ticket in self._running.items() if ticket.is_dropped]:
                    del self._running[slot]
                    self.engine.drop(slot)
                self._waiting = deque(ticket for ticket in self._waiting if not ticket.is_dropped)
                if self._running or self._waiting:
                    break
                self._changed.wait()
            ready = [self._waiting.popleft() for _ in range(min(self.engine.num_free, len(self._waiting)))]
        for ticket in ready:  # each reads a prompt: meanwhile others may come
            slot = self.engine.admit(ticket.request)
            with self._changed:
                self._running[slot] = ticket
        return True

    def _move(self) -> None:
        """Draws some tokens and tells of them."""
        for each in self.engine.advance(STEPS, ends_early=bool(self._waiting)):
            ticket = self._running[each.slot]
            if each.has_ended:
                with self._changed:
                    del self._running[each.slot]
            if not ticket.is_dropped:
                ticket.listener(each.tokens, each.has_ended, "")
