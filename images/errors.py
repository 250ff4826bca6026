"""What can go wrong with building, as one sentence."""


class BuildError(Exception):
    """Something cannot be built; the text says what, why, and what to do."""
