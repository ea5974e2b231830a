package main

import "reflect"

func produce(ch chan<- int, count int) {
	for i := 0; i < count; i++ {
		ch <- i
	}
}

func selectTwo(n int, w *Watch) {
	a, b := make(chan int), make(chan int)
	share := n / 2
	go produce(a, share)
	go produce(b, share)
	w.start()
	for i := 0; i < 2*share; i++ {
		select {
		case <-a:
		case <-b:
		}
	}
	w.stop()
}

// Go's select statement has as many cases as the source has; over a list of channels it is reflect.Select.
func selectMany(n int, w *Watch) {
	const producers = 100
	cases := make([]reflect.SelectCase, producers)
	share := n / producers
	for i := range cases {
		ch := make(chan int)
		cases[i] = reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ch)}
		go produce(ch, share)
	}
	w.start()
	for i := 0; i < producers*share; i++ {
		reflect.Select(cases)
	}
	w.stop()
}

func shared(producers int) function {
	return func(n int, w *Watch) {
		ch := make(chan int)
		share := n / producers
		for i := 0; i < producers; i++ {
			go produce(ch, share)
		}
		w.start()
		for i := 0; i < producers*share; i++ {
			<-ch
		}
		w.stop()
	}
}

func init() {
	register("select", "select over 2", selectTwo)
	register("select", "select over 100", selectMany)
	register("select", "2 producers, one channel, receive", shared(2))
	register("select", "100 producers, one channel, receive", shared(100))
}
