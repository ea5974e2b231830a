# cython: language_level=3
from flower.channels._scheduler cimport REMOVED, RUN, Scheduler, Task, check_switch, here
