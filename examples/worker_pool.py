"""A pool of workers: several tasklets take jobs from one channel and put results on another.

Any number of tasklets may receive from a channel; each job goes to exactly one of them, the one that has
waited longest. Closing the channel of jobs tells all workers that there is no more. The group waits for all
that it started, and if one of them failed it would cancel the rest and raise that error here.

Shows: a shared channel, ``close``, ``group``, a channel with room.

Prints the results in the order in which they were finished, and the sum:

    worker 0: 0 squared is 0
    ...
    8 results, sum 140
"""

import flower
from flower.time import sleep

WORKERS = 3
JOBS = 8


def worker(name, jobs, results):
    for job in jobs:  # ends when jobs is closed and empty
        sleep(0.001 * (job % 3))  # some jobs take longer
        results.send((name, job, job * job))


def work(jobs, results):
    """Run the pool to its end, and close the results."""
    with flower.group() as pool:
        for name in range(WORKERS):
            pool.go(worker, name, jobs.receiver, results.sender)
    results.close()


def main():
    jobs = flower.channel[int](capacity=JOBS)  # room for all: sending them does not wait
    results = flower.channel[tuple[int, int, int]]()
    for job in range(JOBS):
        jobs.send(job)
    jobs.close()  # what it holds is still delivered

    flower.go(work, jobs, results)
    total = count = 0
    for name, job, square in results:
        print(f"worker {name}: {job} squared is {square}")
        total += square
        count += 1
    print(f"{count} results, sum {total}")


if __name__ == "__main__":
    main()
