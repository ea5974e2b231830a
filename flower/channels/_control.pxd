# cython: language_level=3
from flower.channels._scheduler cimport Scheduler, check_switch, here, park
from flower.channels._task cimport REMOVED, RUN
