"""A campaign whose processes, sockets, disk and clocks fail by seed; used by ``faults.py`` and tests/faults."""
