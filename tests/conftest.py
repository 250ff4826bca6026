"""What all tests share."""

from hypothesis import settings

# Examples have no deadline of their own: speed is measured in bench/, and machines are busy at times.
settings.register_profile("octavo", deadline=None)
settings.load_profile("octavo")
