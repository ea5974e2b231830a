// The Go halves of the network's subjects: a server in this process, the load in one of its own.
package main

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
)

func init() {
	register("net_echo", "64 connections, 1 KiB", func(n int, w *Watch) { underLoad(n, w, "echo", 64, 1024, echo) })
	register("net_echo", "1,000 connections, 1 KiB", func(n int, w *Watch) { underLoad(n, w, "echo", 1000, 1024, echo) })
	register("net_echo", "64 connections, 64 KiB", func(n int, w *Watch) { underLoad(n, w, "echo", 64, 65536, echo) })
}

func echo(conn net.Conn) {
	buffer := make([]byte, 65536)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			break
		}
		if _, err = conn.Write(buffer[:n]); err != nil {
			break
		}
	}
	conn.Close()
}

// underLoad runs benchmarks/load, whose program the runner has compiled, against a server of this process.
func underLoad(n int, w *Watch, mode string, connections, size int, handle func(net.Conn)) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	var handlers sync.WaitGroup
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			handlers.Add(1)
			go func() { handle(conn); handlers.Done() }()
		}
	}()
	args := []string{mode, strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)}
	for _, number := range []int{connections, size, n, n/10 + 1, os.Getpid()} {
		args = append(args, strconv.Itoa(number))
	}
	command := exec.Command("build/bench/load", args...)
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		panic(err)
	}
	found := map[string]float64{}
	if err = json.Unmarshal(out, &found); err != nil {
		panic(err)
	}
	w.wall, w.cpu = found["wall"], found["cpu"]
	listener.Close()
	handlers.Wait()
}
