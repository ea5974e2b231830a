"""Libraries made for asyncio, used from tasklets: an HTTP client (aiohttp) and a database (aiosqlite).

``flower.wait`` runs a coroutine on the event loop that Flower's own network uses, and parks only the tasklet that
waits. Here three tasklets fetch pages at a time. What they find goes over a channel to one coroutine, which puts it
into a database: coroutines use channels through ``flower.aio``. The pages come from a server of a few lines.

Prints:

    6 pages, by three workers
    /page/0 has 5 bytes
    /page/1 has 50 bytes
    /page/2 has 500 bytes
    ...
    sum of all: 555555 bytes
"""

import aiohttp
import aiosqlite

import flower
from flower import aio
from flower.net import Listen

PAGES = [f"/page/{n}" for n in range(6)]


def answer(conn):
    """As little of an HTTP server as will do: see http_files.py for a real one."""
    path = conn.read_until(b"\r\n\r\n").split()[1].decode()
    size = 5 * 10 ** int(path.rpartition("/")[2])
    conn.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n" + "x" * size)


async def fetch(url):
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return len(await response.read())


def worker(address, pages, found):
    for path in pages:
        size = flower.wait(fetch("http://{}:{}{}".format(*address, path)), timeout=10)
        found.send((path, size))


async def store(found):
    async with aiosqlite.connect(":memory:") as db:
        await db.execute("create table pages (path text, size integer)")
        async for row in aio.values(found):
            await db.execute("insert into pages values (?, ?)", row)
        return await db.execute_fetchall("select path, size from pages order by path")


def main():
    pages, found = flower.channel(), flower.channel()
    with Listen(("127.0.0.1", 0)) as listener:
        flower.go(listener.serve, answer)
        stored = flower.go(flower.wait, store(found))
        with flower.group() as workers:
            for _ in range(3):
                workers.go(worker, listener.addr(), pages, found)
            pages.send_sequence(PAGES)
            pages.close()
        found.close()
        rows = stored.join()

    print(len(rows), "pages, by three workers")
    for path, size in rows[:3]:
        print(path, "has", size, "bytes")
    print("...")
    print("sum of all:", sum(size for _, size in rows), "bytes")


if __name__ == "__main__":
    main()
