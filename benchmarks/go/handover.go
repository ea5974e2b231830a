package main

func pingPong(n int, w *Watch) {
	ping, pong, done := make(chan int), make(chan int), make(chan bool)
	rounds := n / 2
	go func() {
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

func stream(n int, w *Watch) {
	ch := make(chan int)
	go func() {
		for i := 0; i < n; i++ {
			ch <- i
		}
	}()
	w.start()
	for i := 0; i < n; i++ {
		<-ch
	}
	w.stop()
}

func init() {
	register("handover", "ping-pong", pingPong)
	register("handover", "stream", stream)
}
