"""What can go wrong with a local cluster, as one sentence each."""


class ClusterError(Exception):
    """A precondition is missing or a part did not come up; the text says which and what to do."""
