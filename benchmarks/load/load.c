/* The load for the network's benchmarks: a client of its own, so cheap that the server is what is measured.

   load MODE PORT CONNECTIONS SIZE COUNT WARMUP PID [RATE]

   echo     each connection sends SIZE bytes, waits until they are back, and goes on; COUNT times in all, after WARMUP.
   paced    the same, but RATE requests are due each second whatever the server does; latency counts from when each
            was due, so that a server that stalls is charged for those that had to wait.
   accept   each connection is opened, and read until the server closes it.

   One line of JSON: seconds of wall time, CPU seconds of the process PID, the 50th and 99th percentile of the latency. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    int fd;
    long sent, got; /* bytes of the request under way */
    double began;
    int busy;
} conn;

static struct sockaddr_in server;
static char *out, *in;
static long size, count, warmup, issued, done;
static double *latencies;
static int epoll;
static clockid_t cpu_clock;

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int dial(int wait) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | (wait ? 0 : SOCK_NONBLOCK), 0);
    if (fd < 0) die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) die("connect");
    if (wait) fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void watch(conn *c, int op, unsigned events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, op, c->fd, &e)) die("epoll_ctl");
}

static void push(conn *c) {
    while (c->sent < size) {
        ssize_t n = write(c->fd, out + c->sent, size - c->sent);
        if (n < 0) {
            if (errno == EAGAIN) return;
            die("write");
        }
        c->sent += n;
    }
}

static void begin(conn *c, double when) {
    issued++;
    c->sent = c->got = 0;
    c->busy = 1;
    c->began = when;
    push(c);
}

static int up(const void *a, const void *b) {
    double x = *(double *)a, y = *(double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc < 8) return fprintf(stderr, "usage: load MODE PORT CONNECTIONS SIZE COUNT WARMUP PID [RATE]\n"), 2;
    const char *mode = argv[1];
    int conns = atoi(argv[3]), accepting = !strcmp(mode, "accept");
    size = atol(argv[4]), count = atol(argv[5]), warmup = atol(argv[6]);
    double rate = argc > 8 ? atof(argv[8]) : 0, wall = 0, cpu = 0, due = 0;
    server.sin_family = AF_INET;
    server.sin_port = htons(atoi(argv[2]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (clock_getcpuclockid(atoi(argv[7]), &cpu_clock)) die("clock_getcpuclockid");
    out = malloc(size + 1), in = malloc(1 << 20), memset(out, 'x', size + 1);
    latencies = calloc(count + 1, sizeof *latencies);
    conn *all = calloc(conns, sizeof *all);
    conn **idle = calloc(conns, sizeof *idle);
    int free_ones = 0;
    epoll = epoll_create1(0);
    for (int i = 0; i < conns; i++) {
        all[i].fd = dial(!accepting);
        watch(&all[i], EPOLL_CTL_ADD, EPOLLIN | (accepting ? 0 : EPOLLET | EPOLLOUT));
        idle[free_ones++] = &all[i];
    }
    long total = warmup + count;
    if (accepting) {
        issued = conns;
        for (int i = 0; i < conns; i++) all[i].began = now(CLOCK_MONOTONIC);
    } else if (!rate) {
        while (free_ones) begin(idle[--free_ones], now(CLOCK_MONOTONIC));
    }
    due = now(CLOCK_MONOTONIC);
    struct epoll_event events[1024];
    while (done < total) {
        if (done >= warmup && !wall) wall = now(CLOCK_MONOTONIC), cpu = now(cpu_clock);
        double moment = now(CLOCK_MONOTONIC);
        while (rate && issued < total && free_ones && due <= moment) {
            begin(idle[--free_ones], due);
            due += 1 / rate;
        }
        int n = epoll_wait(epoll, events, 1024, rate ? 0 : 10000);
        if (n < 0 || (n == 0 && !rate)) die("epoll_wait");
        for (int i = 0; i < n; i++) {
            conn *c = events[i].data.ptr;
            if (c->busy && c->sent < size) push(c);
            for (;;) {
                ssize_t got = read(c->fd, in, 1 << 20);
                if (got < 0) {
                    if (errno == EAGAIN) break;
                    die("read");
                }
                int over = accepting ? got == 0 : (c->got += got) >= size;
                if (got == 0 && !accepting) return fprintf(stderr, "the server has hung up\n"), 1;
                if (!over) {
                    if (got < 1 << 20 && !accepting) break;
                    continue;
                }
                moment = now(CLOCK_MONOTONIC);
                if (done >= warmup && done < total) latencies[done - warmup] = moment - c->began;
                done++;
                c->busy = 0;
                if (accepting) {
                    close(c->fd);
                    if (issued < total) {
                        issued++;
                        c->fd = dial(0);
                        c->began = moment;
                        watch(c, EPOLL_CTL_ADD, EPOLLIN);
                    }
                } else if (rate) {
                    idle[free_ones++] = c;
                } else if (issued < total) {
                    begin(c, moment);
                }
                break;
            }
        }
    }
    wall = now(CLOCK_MONOTONIC) - wall, cpu = now(cpu_clock) - cpu;
    qsort(latencies, count, sizeof *latencies, up);
    printf("{\"wall\": %.9f, \"cpu\": %.9f, \"p50\": %.9f, \"p99\": %.9f}\n", wall, cpu, latencies[count / 2],
           latencies[count * 99 / 100]);
    return 0;
}
