"""Drive Neovim, and let Neovim call a service: both over one connection, which Neovim makes.

Neovim speaks MessagePack-RPC itself, so it needs nothing of Flower. Here it connects to our server with its own
``sockconnect``; we then call its functions, it calls our methods, also while we wait for it, and each change of
its text comes to us as a notification, which we hand on through a channel.

Needs Neovim (``nvim``) on the path.

Prints:

    Neovim is here, version 0....
    2 lines: ['to be or not to be', 'that is the question']
    it asked us: count_words
    10 words
    it changed: ['TO BE OR NOT TO BE']
    its error: E492: Not an editor command: nosuchcommand
    Neovim has gone
"""

import subprocess

import flower
from flower import rpc

CONNECT = "let g:flower = sockconnect('tcp', '{}:{}', {{'rpc': v:true}}) | call rpcnotify(g:flower, 'here')"


class Editing:
    """What Neovim may call."""

    def __init__(self):
        self.arrived = flower.channel(1)
        self.changes = flower.channel(10)

    def here(self):
        self.arrived.send(None)

    def count_words(self, lines):
        print("it asked us: count_words")
        return sum(len(line.split()) for line in lines)

    def nvim_buf_lines_event(self, buffer, tick, first, last, lines, more):
        self.changes.send(lines)


def drive(nvim, service):
    version = nvim.call("nvim_get_api_info")[1]["version"]
    print(f"Neovim is here, version {version['major']}.{version['minor']}")

    nvim.call("nvim_buf_set_lines", 0, 0, -1, True, ["to be or not to be", "that is the question"])
    lines = nvim.proxy.nvim_buf_get_lines(0, 0, -1, True)
    print(f"{len(lines)} lines: {lines}")

    # While this call waits for Neovim, Neovim waits for an answer of ours.
    words = nvim.call("nvim_eval", "rpcrequest(g:flower, 'count_words', getline(1, '$'))")
    print(words, "words")

    nvim.call("nvim_buf_attach", 0, False, {})
    nvim.notify("nvim_command", "normal! gUU")
    source, lines = flower.select(service.changes, flower.after(10.0))
    print("it changed:", lines if source is service.changes else "nothing, in 10 s")

    try:
        nvim.call("nvim_command", "nosuchcommand")
    except rpc.RemoteError as error:
        print("its error:", error.message.partition(":")[2])

    try:
        nvim.call("nvim_command", "quitall!")
    except ConnectionError:
        print("Neovim has gone")


def main():
    service = Editing()
    with rpc.serve("tcp://127.0.0.1:0", service) as server:
        command = ["nvim", "--headless", "--clean", "-n", "-c", CONNECT.format(*server.address)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                service.arrived.receive(timeout=20.0)
                (nvim,) = server.peers
                drive(nvim, service)
            finally:
                process.kill()


if __name__ == "__main__":
    main()
