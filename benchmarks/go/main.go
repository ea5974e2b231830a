// The Go halves of Flower's benchmarks: flowerbench SUBJECT VARIANT N REPEATS.
//
// Each subject's file registers its functions; one does its work n times, with the watch around the part
// that counts. One JSON object goes to standard output, the same as benchmarks/worker.py writes.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// Watch measures wall and CPU time between start and stop, or holds a value that is no time.
type Watch struct {
	wall, cpu float64
	value     float64
	hasValue  bool
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	seconds := float64(usage.Utime.Sec + usage.Stime.Sec)
	return seconds + float64(usage.Utime.Usec+usage.Stime.Usec)/1e6
}

var started time.Time

func (w *Watch) start() {
	w.cpu = cpuSeconds()
	started = time.Now()
}

func (w *Watch) stop() {
	w.wall = time.Since(started).Seconds()
	w.cpu = cpuSeconds() - w.cpu
}

type function func(n int, w *Watch)

var functions = map[[2]string]function{}

func register(subject, variant string, f function) {
	functions[[2]string{subject, variant}] = f
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: flowerbench SUBJECT VARIANT N REPEATS")
		os.Exit(2)
	}
	f := functions[[2]string{os.Args[1], os.Args[2]}]
	n, err1 := strconv.Atoi(os.Args[3])
	repeats, err2 := strconv.Atoi(os.Args[4])
	if f == nil || err1 != nil || err2 != nil {
		fmt.Fprintln(os.Stderr, "flowerbench: unknown:", os.Args[1:])
		os.Exit(2)
	}
	if repeats > 1 {
		f(n/10+1, &Watch{})
	}
	samples := [][2]float64{}
	for i := 0; i < repeats; i++ {
		runtime.GC()
		w := Watch{}
		f(n, &w)
		if w.hasValue {
			samples = append(samples, [2]float64{w.value, w.value})
		} else {
			samples = append(samples, [2]float64{w.wall / float64(n), w.cpu / float64(n)})
		}
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{"samples": samples, "n": n})
}
