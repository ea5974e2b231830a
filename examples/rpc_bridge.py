"""A stream of another process in a select loop, beside a ticker, a reply and a deadline.

Everything that happens is a receive: the far sensor's readings, the time to write a summary, the answer of a slow call.
One loop waits for all of them, without threads or callbacks.

Run without arguments it starts the sensor as a process of its own.

Prints:

    a summary of ... readings (several times)
    calibrated: 0.5
    20 readings, the last is 19.5
    the sensor was stopped
"""

import subprocess
import sys

import flower
from flower import rpc
from flower.time import sleep


class Sensor:
    """What the sensor offers."""

    def __init__(self):
        self._offset = 0.0
        self._reading = 0

    def readings(self, every):
        """Readings, one each so many seconds, for as long as somebody takes them."""
        self._reading += 1
        number = 0
        try:
            while True:
                yield number + self._offset
                number += 1
                sleep(every)
        finally:
            self._reading -= 1

    def calibrate(self):
        sleep(0.02)
        self._offset = 0.5
        return self._offset

    def busy(self):
        return self._reading > 0


def serve():
    with rpc.serve("tcp://127.0.0.1:0", Sensor()) as server:
        print(server.url, flush=True)
        flower.blocking(sys.stdin.read)  # until whoever started us has gone


def watch(sensor):
    readings = sensor.stream("readings", every=0.005)
    calibrated = sensor.start("calibrate")
    summary = flower.tick(0.03)
    deadline = flower.after(20.0)

    count, last = 0, 0.0
    while count < 20 or last != int(last) + 0.5:
        source, value = flower.select(readings, calibrated, summary, deadline)
        if source is readings:
            count, last = count + 1, value
        elif source is calibrated:
            print("calibrated:", value)
            calibrated = None  # never ready again
        elif source is summary:
            print("a summary of", count, "readings")
        else:
            raise SystemExit("the sensor is too slow")
    print(f"{count} readings, the last is {last}")
    readings.close()


def main():
    command = [sys.executable, __file__, "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        with rpc.connect(process.stdout.readline().strip()) as sensor:
            watch(sensor)
            while sensor.call("busy"):
                sleep(0.001)
            print("the sensor was stopped")


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
