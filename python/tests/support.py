"""What several tests use."""

import os
import sys
import time


def in_child(work):
    """`work()` in a forked child, which must return None."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def wait_until(condition, seconds=30):
    """For what another thread or the kernel's clock brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
