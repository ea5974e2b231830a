"""The shortest program: start a tasklet, and let it run.

``hello`` only makes the tasklet; it runs when the main tasklet gives way, here in ``run()``. Nothing is
copied between the two: ``f`` sees what the variable holds by then.

Prints:

    hello, world
"""

from flower import run, tasklet

a = ""


def f():
    print(a)


def hello():
    global a
    a = "hello, world"
    tasklet(f)()


hello()
run()
