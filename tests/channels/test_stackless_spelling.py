"""A program written for Stackless, with its own spellings."""

from typing import Any

import flower
import flower.stackless as stackless


def test_a_stackless_program_runs() -> None:
    log: list[Any] = []
    ch = stackless.channel()

    def producer(n: int) -> None:
        for i in range(n):
            ch.send(i)
        ch.send_exception(StopIteration)

    def consumer() -> None:
        try:
            while True:
                log.append(ch.receive())
        except StopIteration:
            log.append("end")

    stackless.tasklet(producer)(3)
    t = stackless.tasklet().bind(consumer).setup()
    assert stackless.getruncount() == 3
    stackless.run()
    assert log == [0, 1, 2, "end"] and not t.alive
    assert stackless.getcurrent() is stackless.getmain()


def test_the_names_are_flowers_own() -> None:
    for name in set(stackless.__all__) - {"set_error_handler"}:
        assert getattr(stackless, name) is getattr(flower, name)


def test_an_error_handler_gets_what_stackless_gives_it() -> None:
    seen: list[Any] = []

    def handler(kind: Any, value: Any, traceback: Any) -> None:
        seen.append((kind, str(value), traceback is not None))

    def fails() -> None:
        raise LookupError("lost")

    assert stackless.set_error_handler(handler) is None
    try:
        stackless.tasklet(fails)()
        stackless.run()
    finally:
        assert stackless.set_error_handler(None) is handler
    assert seen == [(LookupError, "lost", True)]
