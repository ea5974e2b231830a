package main

func buffered(n int, w *Watch) {
	ch := make(chan int, 16)
	w.start()
	for i := 0; i < n; i++ {
		ch <- i
		<-ch
	}
	w.stop()
}

func init() {
	register("buffered", "", buffered)
}
