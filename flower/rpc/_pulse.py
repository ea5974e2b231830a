"""Whether a silent peer is still there: asked for a sign of life, and given up when none comes (`Settings.heartbeat`).

The kernel notices a machine that is gone (`Conn.keep_alive`); this notices a program that is stopped, too. Every byte
that comes is a sign of life. The ping is answered by the peer's reader, whatever its methods do; a plain peer's error
is as good. A Flower peer that does not read, since it serves notifications more slowly than they come, says once a
second that it is there (`Serving.hold_back`). A look that comes late says that this program was busy itself, and proves
nothing: it begins anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flower.channels import channel
from flower.channels._waiting import Alarm
from flower.errors import Disconnected

if TYPE_CHECKING:
    from flower.rpc._session import Session

PING = "$/ping"
# A look is late when it comes after so much of its interval more.
LATE = 0.5


class Pulse:
    """Looks at a session every so many seconds."""

    __slots__ = ("_alarm", "_asked", "_due", "_heard", "_seconds", "_session")

    def __init__(self, session: Session, seconds: float) -> None:
        self._session = session
        self._seconds = seconds
        self._heard = 0
        self._asked = False
        self._due = 0.0
        self._alarm = Alarm(self._look)
        self._go_on()

    def stop(self) -> None:
        """The session is over."""
        self._session.scheduler.clear_alarm(self._alarm)

    def _go_on(self) -> None:
        scheduler = self._session.scheduler
        self._due = scheduler.now() + self._seconds
        scheduler.set_alarm(self._alarm, self._due)

    def _look(self, now: float) -> None:
        session = self._session
        if session.heard != self._heard or now > self._due + LATE * self._seconds or session.is_busy:
            self._heard = session.heard
            self._asked = False
        elif self._asked:
            session.give_up_silent(Disconnected(f"{session.name}: no sign of life for {2 * self._seconds} s"))
            return
        else:
            self._asked = True
            msgid, data = session.wire.call(PING, [])
            session.calls.pending[msgid] = channel(1, PING)
            session.outbox.post(data)
        self._go_on()
