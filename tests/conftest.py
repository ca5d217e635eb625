"""What holds for all tests."""

from hypothesis import settings

# How long an example takes says something of the machine and what else it does, not of the code.
settings.register_profile("elmas", deadline=None)
settings.load_profile("elmas")
