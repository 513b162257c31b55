"""Settings that every level uses."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # files of tests share the cores, in pytest-xdist's workers

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=60)  # the same examples every time
settings.load_profile("tests")
