package main

import (
	"bufio"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"
)

// The server is this program again, in a process of its own: see serveRPC.
const rpcServer = "FLOWERBENCH_RPC_SERVER"

// Pair is what Service.Add takes.
type Pair struct{ A, B int }

// Service is what net/rpc serves.
type Service struct{}

// Add adds.
func (*Service) Add(p Pair, sum *int) error {
	*sum = p.A + p.B
	return nil
}

func init() {
	if os.Getenv(rpcServer) != "" {
		serveRPC()
		os.Exit(0)
	}
	register("rpc_calls", "", rpcCalls)
	register("rpc_turns", "", rpcTurns)
	register("rpc_latency", "p50", func(n int, w *Watch) { rpcLatency(n, w, n/2) })
	register("rpc_latency", "p99", func(n int, w *Watch) { rpcLatency(n, w, n*99/100) })
}

func serveRPC() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	rpc.Register(&Service{})
	fmt.Println(listener.Addr())
	rpc.Accept(listener)
}

func withRPC(use func(client *rpc.Client)) {
	program, err := os.Executable()
	if err != nil {
		panic(err)
	}
	server := exec.Command(program)
	server.Env = append(os.Environ(), rpcServer+"=1")
	output, err := server.StdoutPipe()
	if err != nil {
		panic(err)
	}
	if err := server.Start(); err != nil {
		panic(err)
	}
	defer server.Wait()
	defer server.Process.Kill()
	address, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		panic(err)
	}
	client, err := rpc.Dial("tcp", strings.TrimSpace(address))
	if err != nil {
		panic(err)
	}
	defer client.Close()
	use(client)
}

func callRPC(client *rpc.Client, count int) {
	for i := 0; i < count; i++ {
		var sum int
		if err := client.Call("Service.Add", Pair{i, 1}, &sum); err != nil || sum != i+1 {
			panic(fmt.Sprint(err, sum))
		}
	}
}

func rpcCalls(n int, w *Watch) {
	withRPC(func(client *rpc.Client) {
		callRPC(client, 1)
		var wg sync.WaitGroup
		w.start()
		for i := 0; i < 64; i++ {
			count := n / 64
			if i < n%64 {
				count++
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				callRPC(client, count)
			}()
		}
		wg.Wait()
		w.stop()
	})
}

func rpcTurns(n int, w *Watch) {
	withRPC(func(client *rpc.Client) {
		callRPC(client, 1)
		w.start()
		callRPC(client, n)
		w.stop()
	})
}

// rpcLatency calls at half the rate at which calls can be started; the value is that of the given rank.
func rpcLatency(n int, w *Watch, rank int) {
	withRPC(func(client *rpc.Client) {
		callRPC(client, 100)
		began := time.Now()
		var wg sync.WaitGroup
		for i := 0; i < n; i++ {
			runtime.Gosched()
			wg.Add(1)
			go func() {
				defer wg.Done()
				callRPC(client, 1)
			}()
		}
		wg.Wait()
		pause := 2 * time.Since(began) / time.Duration(n)
		taken := make([]time.Duration, n)
		due := time.Now()
		for i := 0; i < n; i++ {
			due = due.Add(pause)
			for time.Now().Before(due) {
				runtime.Gosched()
			}
			wg.Add(1)
			go func(i int, due time.Time) {
				defer wg.Done()
				callRPC(client, 1)
				taken[i] = time.Since(due)
			}(i, due)
		}
		wg.Wait()
		sort.Slice(taken, func(a, b int) bool { return taken[a] < taken[b] })
		w.value, w.hasValue = taken[rank].Seconds(), true
	})
}
