package main

import "runtime"

// Both sides locked to OS threads, so that each hand-over wakes a thread, as it does in Python.
func threadPingPong(n int, w *Watch) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ping, pong, done := make(chan int), make(chan int), make(chan bool)
	rounds := n / 2
	go func() {
		runtime.LockOSThread()
		for i := 0; i < rounds; i++ {
			pong <- <-ping
		}
		done <- true
	}()
	w.start()
	for i := 0; i < rounds; i++ {
		ping <- i
		<-pong
	}
	<-done
	w.stop()
}

func init() {
	register("threads", "locked to OS threads", threadPingPong)
}
