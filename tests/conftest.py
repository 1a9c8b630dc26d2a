"""For all tests: laws are tried without regard to how long a try takes, and in CI with the same cases every time."""

import os

from hypothesis import settings

settings.register_profile("eniway", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("eniway")
