"""A queue of work over several processes: each worker gets a channel of jobs, and one into which results go.

The boss passes ends of channels to its workers as arguments of a call. From then on jobs and results travel by
themselves: a worker receives, works, and sends. ``select`` offers each job to all workers at once, and the first one
that is free takes it. That a worker dies is told by an error at the channel; its unfinished job goes to another.

Run without arguments it starts the workers as processes of their own.

Prints:

    3 workers are here
    worker ... was killed at its work
    40 jobs done: the sum of the squares is 20540
    each of the others did some of them
"""

import os
import subprocess
import sys

import flower
from flower import rpc
from flower.time import sleep

WORKERS = 3
JOBS = 40


class Worker:
    """What a worker offers: to work until there are no more jobs."""

    def work(self, jobs, results):
        for job in jobs:
            sleep(0.005)  # it is hard work
            results.send((job, job * job, os.getpid()))


def worker():
    with rpc.serve("tcp://127.0.0.1:0", Worker()) as server:
        print(server.url, flush=True)
        flower.blocking(sys.stdin.read)  # until whoever started us has gone


class Boss:
    """Has jobs done, by whoever is there."""

    def __init__(self, urls):
        self.results = flower.channel()
        self.workers = {}  # the channel of each one's jobs, and the peer
        for url in urls:
            peer = rpc.connect(url)
            jobs = flower.channel()  # without capacity: a job is handed over when the worker is free
            peer.start("work", jobs.receiver, self.results.sender)
            self.workers[jobs] = peer

    def hand_out(self, todo):
        """Give each job to the first worker that takes it."""
        for job in todo:
            while True:
                try:
                    flower.select(*[(jobs, job) for jobs in self.workers])
                    break
                except rpc.ChannelBroken:  # one of them has died
                    self.workers = {jobs: peer for jobs, peer in self.workers.items() if not peer.closed}

    def dismiss(self):
        for jobs, peer in self.workers.items():
            jobs.close()
            peer.close()


def work_through(boss, count, victim):
    """Have the jobs done. What a dead worker had taken and not finished is missing at the end, and done again."""
    done, by, missing = {}, set(), set(range(count))
    while missing:
        handing_out = flower.go(boss.hand_out, sorted(missing))
        while missing:
            try:
                job, square, worker = boss.results.receive(timeout=0.5)
            except rpc.ChannelBroken:
                continue  # of one of those who send into it
            except flower.Timeout:
                break  # whoever had these is no more
            if job in missing:
                missing.discard(job)
                done[job] = square
                by.add(worker)
            if len(done) == 5 and victim.poll() is None:
                victim.kill()
                print("worker", victim.pid, "was killed at its work")
        handing_out.join()
    by.discard(victim.pid)
    print(count, "jobs done: the sum of the squares is", sum(done.values()))
    print("each of the others did some of them" if len(by) == WORKERS - 1 else f"only {by} did any")


def main():
    command = [sys.executable, __file__, "worker"]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(WORKERS)]
    try:
        boss = Boss([process.stdout.readline().strip() for process in processes])
        print(len(boss.workers), "workers are here")
        work_through(boss, JOBS, victim=processes[0])
        boss.dismiss()
    finally:
        for process in processes:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["worker"] else main()
