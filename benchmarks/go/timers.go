package main

import "time"

const far = time.Hour

func deadlines(count int) []time.Duration {
	seconds := make([]time.Duration, count)
	for i := range seconds {
		seconds[i] = far + time.Duration(i*7919%count)*10*time.Millisecond
	}
	return seconds
}

func armAndCancel(arm func(time.Duration) *time.Timer) function {
	return func(n int, w *Watch) {
		seconds := deadlines(n)
		timers := make([]*time.Timer, n)
		w.start()
		for i, d := range seconds {
			timers[i] = arm(d)
		}
		for _, t := range timers {
			t.Stop()
		}
		w.stop()
	}
}

func calling(d time.Duration) *time.Timer {
	return time.AfterFunc(d, func() {})
}

// A receive with a timeout, as Go programs write it that care: one timer per side, reset for each receive.
func receive(ch <-chan int, timer *time.Timer) int {
	timer.Reset(far / 2)
	select {
	case value := <-ch:
		timer.Stop()
		return value
	case <-timer.C:
		panic("an hour has passed")
	}
}

func timedPingPong(pending int) function {
	return func(n int, w *Watch) {
		timers := make([]*time.Timer, pending)
		for i, d := range deadlines(pending) {
			timers[i] = time.NewTimer(d)
		}
		ping, pong, done := make(chan int), make(chan int), make(chan bool)
		rounds := n / 2
		go func() {
			timer := time.NewTimer(far)
			for i := 0; i < rounds; i++ {
				pong <- receive(ping, timer)
			}
			done <- true
		}()
		timer := time.NewTimer(far)
		w.start()
		for i := 0; i < rounds; i++ {
			ping <- i
			receive(pong, timer)
		}
		<-done
		w.stop()
		for _, t := range timers {
			t.Stop()
		}
	}
}

func init() {
	register("timers", "arm and cancel 100,000, calling a function", armAndCancel(calling))
	register("timers", "arm and cancel 100,000, a channel each", armAndCancel(time.NewTimer))
	register("timers", "ping-pong with a timeout", timedPingPong(0))
	register("timers", "ping-pong with a timeout, 100,000 timers pending", timedPingPong(100000))
}
