package main

import "sync"

func spawn(size int) function {
	return func(n int, w *Watch) {
		if size > n {
			size = n
		}
		var all sync.WaitGroup
		w.start()
		for i := 0; i < n/size; i++ {
			all.Add(size)
			for j := 0; j < size; j++ {
				go all.Done()
			}
			all.Wait()
		}
		w.stop()
	}
}

func init() {
	register("spawn", "100 at a time", spawn(100))
	register("spawn", "100,000 at once", spawn(100000))
}
