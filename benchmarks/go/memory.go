package main

import (
	"os"
	"runtime"
	"strconv"
	"strings"
)

func resident() float64 {
	runtime.GC()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		panic(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	if err != nil {
		panic(err)
	}
	return float64(pages * os.Getpagesize())
}

func parked(n int, w *Watch) {
	ch := make(chan int)
	before := resident()
	for i := 0; i < n; i++ {
		go func() { <-ch }()
	}
	for i := 0; i < 10; i++ {
		runtime.Gosched()
	}
	w.value, w.hasValue = (resident()-before)/float64(n), true
}

func init() {
	register("memory", "", parked)
}
