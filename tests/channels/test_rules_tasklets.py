"""The rules that settle the corner cases of tasklets, one test or more for each."""

from __future__ import annotations

import threading
import traceback
from typing import Any

import pytest

import flower
import flower.time
from flower import (
    Cancelled,
    ChannelClosed,
    TaskletExit,
    TaskletKilled,
    Timeout,
    channel,
    go,
    schedule,
)

from .support import NEVER, SOON, in_thread, python, settle, spawn_parked


class Boom(Exception):
    pass


def boom(*args: Any) -> None:
    raise Boom(*args)


# -- An uncaught ConnectionError of one of Flower's own connections is reported, not raised in main

RESET = """
    import socket, struct, flower, flower.time
    from flower.net import Listen

    listener = Listen(("127.0.0.1", 0), "tcp")
    ended = flower.channel(1)

    def handler(conn):
        try:
            while conn.read():
                pass
        finally:
            ended.send(True)

    client = socket.create_connection(listener.addr())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn, err = listener.accept()
    flower.go(handler, conn)
    flower.schedule()
    client.close()  # with a reset
    ended.receive()
    flower.schedule()
    listener.close()
    print("the server goes on")
"""


def test_an_uncaught_connection_error_of_a_connection_goes_to_the_error_handler() -> None:
    done = python(RESET)
    assert (done.returncode, done.stdout) == (0, "the server goes on\n"), done.stderr
    assert "ConnectionResetError" in done.stderr and "handler" in done.stderr


def test_an_uncaught_connection_error_of_the_users_own_is_raised_in_main() -> None:
    def fails() -> None:
        raise ConnectionResetError("not a connection of Flower's")

    go(fails)
    with pytest.raises(ConnectionResetError):
        flower.run()


# -- An uncaught error while main is blocked


def test_an_uncaught_error_withdraws_mains_wait() -> None:
    ch = channel()
    go(boom)
    with pytest.raises(Boom):
        ch.receive()
    assert (ch.balance, ch.queue) == (0, None)
    go(boom)
    with pytest.raises(Boom):
        ch.send("never sent")
    assert (ch.balance, ch.try_receive("nothing")) == (0, "nothing")


def test_an_uncaught_error_comes_after_an_outcome_that_is_already_written() -> None:
    ch = channel()
    ch.preference = 0

    def deliver() -> None:
        ch.send("delivered")
        boom()

    go(deliver)
    assert ch.receive() == "delivered"
    with pytest.raises(Boom):
        schedule()


def test_uncaught_errors_come_in_order_one_per_park() -> None:
    for i in range(3):
        go(boom, i)
    for i in range(3):
        with pytest.raises(Boom) as caught:
            channel().receive()
        assert caught.value.args == (i,)


def test_what_is_left_at_exit_goes_to_standard_error() -> None:
    code = """
        import flower, flower.time
        ch = flower.channel()
        ch.preference = 0
        def delivers_and_fails():
            ch.send("delivered")
            raise LookupError("left")
        flower.go(delivers_and_fails)
        print(ch.receive())
    """
    done = python(code)
    assert (done.returncode, done.stdout) == (0, "delivered\n")
    assert "LookupError: left" in done.stderr and "delivers_and_fails" in done.stderr


# -- join


def test_join_of_a_killed_tasklet_raises_tasklet_killed() -> None:
    t = spawn_parked(channel().receive)
    t.kill()
    for _ in range(2):
        with pytest.raises(TaskletKilled):
            t.join()
    assert issubclass(TaskletKilled, Exception)


def test_each_joiner_gets_the_error_with_its_own_traceback() -> None:
    gate = channel()

    def fails() -> None:
        gate.receive()
        boom("once")

    t = spawn_parked(fails)

    def first_joiner() -> Any:
        try:
            t.join()
        except Boom as e:
            return e, [f.name for f in traceback.extract_tb(e.__traceback__)]

    def second_joiner() -> Any:
        return first_joiner()

    joiners = [spawn_parked(f) for f in (first_joiner, second_joiner, second_joiner)]
    gate.send(None)
    settle()
    for j, deep in zip(joiners, (False, True, True), strict=True):
        error, names = j.join()
        assert error.args == ("once",)
        assert names.count("first_joiner") == 1
        assert names[-1] == "boom"
        assert len(names) == len(set(names)), "frames of another joiner"
        assert "second_joiner" not in names  # it is above the frame that caught
        assert deep or names[0] == "first_joiner"


def test_an_error_raised_in_main_is_raised_again_by_a_later_join() -> None:
    t = go(boom, 1)
    with pytest.raises(Boom):
        flower.run()
    for _ in range(2):
        with pytest.raises(Boom) as caught:
            t.join()
        assert caught.value.args == (1,)


def test_join_gives_the_result_again_and_again() -> None:
    t = go(lambda: "result")
    assert [t.join() for _ in range(3)] == ["result"] * 3
    assert t.join(timeout=0) == "result"


def test_join_times_out_and_the_tasklet_goes_on() -> None:
    ch = channel()
    t = go(ch.receive)
    with pytest.raises(Timeout):
        t.join(timeout=SOON)
    with pytest.raises(Timeout):
        t.join(0)
    assert t.blocked == -1
    ch.send(1)
    assert t.join(NEVER) == 1


def test_join_of_oneself_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        go(lambda: flower.getcurrent().join()).join()


# -- kill


def test_kill_is_delivered_once() -> None:
    ch, caught = channel(), []

    def victim() -> Any:
        try:
            ch.receive()
        except TaskletExit as e:
            caught.append(e)
        return ch.receive()

    t = spawn_parked(victim)
    t.kill()
    assert len(caught) == 1 and t.blocked == -1
    ch.send("alive")
    assert t.join() == "alive"


def test_kill_pierces_shields() -> None:
    log: list[str] = []

    def victim() -> None:
        with flower.shield():
            try:
                channel().receive()
            except TaskletExit:
                log.append("pierced")
                raise

    t = spawn_parked(victim)
    t.kill()
    assert log == ["pierced"] and not t.alive


def test_kill_returns_when_the_victim_first_parks() -> None:
    ch, log = channel(), []

    def victim() -> None:
        try:
            channel().receive()
        finally:
            log.append("clean-up starts")
            ch.receive()
            log.append("clean-up ends")

    t = spawn_parked(victim)
    t.kill()
    log.append("kill returned")
    assert t.blocked == -1
    ch.send(None)
    settle()
    assert log == ["clean-up starts", "kill returned", "clean-up ends"]
    with pytest.raises(TaskletKilled):
        t.join()


def test_kill_returns_when_the_victim_ends() -> None:
    log: list[str] = []

    def victim() -> None:
        try:
            channel().receive()
        finally:
            log.append("ended")

    t = spawn_parked(victim)
    t.kill()
    assert log == ["ended"] and not t.alive


def test_kill_is_pending_across_threads() -> None:
    log: list[int] = []
    ch = channel()

    def victim() -> None:
        try:
            ch.receive()
        finally:
            log.append(threading.get_ident())

    t = spawn_parked(victim)
    in_thread(t.kill)
    assert log == [] and t.alive
    with pytest.raises(TaskletKilled):
        t.join()
    assert log == [threading.get_ident()]
    assert ch.balance == 0


def test_a_killed_group_member_is_no_error() -> None:
    with flower.group() as g:
        member = g.go(channel().receive)
        other = g.go(lambda: "other")
        settle()
        member.kill()
    assert not member.alive
    assert other.join() == "other"


def test_a_member_or_a_body_that_joins_a_member_that_is_cancelled_like_itself_is_no_error() -> None:
    """Its own Cancelled comes first, be the member dead by then: the join would wait for nothing."""

    def joins_late(t: Any) -> None:
        while t.alive:
            schedule()
        t.join()

    with flower.group() as g:
        member = g.go(channel().receive)
        g.go(joins_late, member)
        schedule()
        g.cancel()
    with flower.group() as g:
        member = g.go(channel().receive)
        schedule()
        g.cancel()
        joins_late(member)


def test_who_joins_a_cancelled_group_member_is_not_cancelled() -> None:
    """Its Cancelled is for the member's own scope: at the joiner nobody would catch it."""
    told: list[BaseException] = []

    def watch(t: Any) -> None:
        try:
            t.join()
        except Exception as error:
            told.append(error)

    def clean_up(t: Any) -> None:
        try:
            channel().receive()
        finally:
            with flower.shield():
                watch(t)

    with flower.group() as g:
        member = g.go(channel().receive)
        outside = go(watch, member)
        g.go(clean_up, member)
        settle()
        g.cancel()
    outside.join()
    watch(member)
    assert [type(error) for error in told] == [TaskletKilled] * 3
    assert "cancelled" in str(told[0])


def test_a_killed_group_owner_cancels_and_awaits_its_children() -> None:
    log: list[str] = []
    gate = channel()

    def child() -> None:
        try:
            channel().receive()
        except Cancelled:
            log.append("child cancelled")
            with flower.shield():
                gate.receive()
            log.append("child done")
            raise

    def owner() -> None:
        try:
            with flower.group() as g:
                g.go(child)
                channel().receive()
        finally:
            log.append("owner done")

    t = spawn_parked(owner)
    t.kill()
    settle()
    assert log == ["child cancelled"] and t.alive
    gate.send(None)
    settle()
    assert log == ["child cancelled", "child done", "owner done"]
    with pytest.raises(TaskletKilled):
        t.join()


# -- Cancelled


def test_cancelled_is_delivered_only_where_a_tasklet_would_park() -> None:
    """An operation that is ready succeeds though the scope has expired."""
    ch = channel(2)
    with flower.move_on(NEVER) as scope:
        scope.cancel()
        ch.send(1)
        assert ch.receive() == 1
        ch.send(2)
        assert flower.select(ch) == (ch, 2)
        assert flower.select(ch, default="d") == (None, "d")
        assert ch.try_receive("nothing") == "nothing"
        assert go(lambda: 3) is not None
        with pytest.raises(Cancelled):
            ch.receive()
        with pytest.raises(Cancelled):  # and again at each
            ch.receive()
        assert ch.balance == 0
    settle()


def test_cancelled_is_delivered_at_sleep_0() -> None:
    reached = []
    with flower.move_on(NEVER) as scope:
        flower.time.sleep(0)
        reached.append("not cancelled yet")
        scope.cancel()
        flower.time.sleep(0)
        reached.append("never")
    assert reached == ["not cancelled yet"]


def test_sleep_0_lets_the_others_run() -> None:
    log: list[int] = []
    go(log.append, 1)
    flower.time.sleep(0)
    assert log == [1]


def test_timeout_raises_timeout_only_if_it_caught_its_own_cancelled() -> None:
    with flower.timeout(0):
        pass  # nothing parked, nothing is raised
    with pytest.raises(Timeout), flower.timeout(0) as scope:
        channel().receive()
    assert scope.expired
    with pytest.raises(Cancelled) as caught, flower.timeout(NEVER):
        raise Cancelled
    assert type(caught.value) is Cancelled


def test_timeout_swallowed_by_the_body_is_not_raised() -> None:
    with flower.timeout(0) as scope:
        try:
            channel().receive()
        except Cancelled:
            pass
    assert scope.expired


def test_another_error_from_the_body_wins() -> None:
    with pytest.raises(Boom) as caught, flower.timeout(0):
        try:
            channel().receive()
        except Cancelled:
            boom()
    assert isinstance(caught.value.__context__, Cancelled)


def test_on_a_tie_the_outermost_scope_wins() -> None:
    log = []
    with flower.move_on(0) as outer:
        with flower.move_on(0):
            channel().receive()
        log.append("between")
    assert log == [] and outer.expired
    with pytest.raises(Timeout), flower.timeout(0):
        with flower.move_on(0):
            channel().receive()
        log.append("between")
    assert log == []


def test_nested_scopes_each_catch_only_their_own() -> None:
    log = []
    with flower.move_on(NEVER) as outer:
        with flower.move_on(0) as inner:
            channel().receive()
        log.append("between")
        assert inner.expired and not outer.expired
    log.append("after")
    assert log == ["between", "after"]
    with flower.move_on(NEVER) as outer:
        with flower.move_on(NEVER) as inner:
            outer.cancel()
            channel().receive()
        log.append("never")
    assert log == ["between", "after"]


def test_a_new_tasklet_does_not_inherit_scopes() -> None:
    ch = channel()
    with flower.move_on(0) as scope:
        t = go(ch.receive)
        channel().receive()
    assert scope.expired
    settle()
    assert t.blocked == -1
    ch.send("later")
    assert t.join() == "later"


def test_a_groups_body_is_inside_the_groups_scope() -> None:
    """A child's error cancels the body where it parks."""
    log = []
    with pytest.raises(Boom):
        with flower.group() as g:
            g.go(boom)
            try:
                channel().receive()
            except Cancelled:
                log.append("body cancelled")
                raise
    assert log == ["body cancelled"]


def test_shield_lets_clean_up_finish() -> None:
    ch, log = channel(), []
    go(ch.send, "for the clean-up")
    with flower.move_on(0):
        try:
            channel().receive()
        finally:
            with flower.shield():
                log.append(ch.receive())
    assert log == ["for the clean-up"]


# -- Ends of tasklets


def test_closed_channel_in_a_tasklet_is_an_error_like_others() -> None:
    ch = channel()
    t = go(ch.receive)
    settle()
    ch.close()
    with pytest.raises(ChannelClosed):
        flower.run()
    with pytest.raises(ChannelClosed):
        t.join()


@pytest.mark.parametrize("fails", [True, False])
def test_who_joins_gets_what_the_life_came_to_that_he_waited_for(fails: bool) -> None:
    def first() -> str:
        schedule()
        if fails:
            raise LookupError("first")
        return "first"

    def again() -> None:
        while t.alive:
            schedule()
        t.bind(channel().receive, ())

    t = go(first)
    joiners = [go(t.join) for _ in range(2)]
    go(again)
    for joiner in joiners:
        if fails:
            with pytest.raises(LookupError, match="first"):
                joiner.join()
        else:
            assert joiner.join() == "first"
    assert t.paused
    t.kill()


@pytest.mark.parametrize(
    "give_way", [lambda other: other.run(), lambda other: other.switch(), lambda other: schedule()]
)
def test_a_kill_that_came_after_a_value_takes_effect_where_the_tasklet_gives_way(give_way: Any) -> None:
    ch = channel()
    ch.preference = 0
    other = flower.tasklet(lambda: None).bind(args=())

    def receives() -> None:
        ch.receive()
        give_way(other)

    t = spawn_parked(receives)
    ch.send("value")
    t.kill(pending=True)
    with pytest.raises(TaskletKilled):
        t.join()
    other.kill()
