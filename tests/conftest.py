"""Settings that every level uses."""

from hypothesis import settings

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=60)  # the same examples every time
settings.load_profile("tests")
