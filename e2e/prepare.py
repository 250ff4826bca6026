"""All that the e2e tests need of a network, since they run without one: `python -m e2e.prepare [argocd]`."""

import sys

from e2e.cluster.container_parts import container_parts
from e2e.cluster.errors import ClusterError
from e2e.cluster.go_programs import linked_programs, program
from e2e.installation import LocalImages
from e2e.servers.argocd import argocd_parts
from e2e.servers.processes import SERVERS
from e2e.servers.prometheus import prometheus_program
from images.errors import BuildError


def main() -> None:
    """Build and fetch what is not in the cache; what is wrong is said in one sentence."""
    try:
        container_parts()
        linked_programs()
        for name in SERVERS:
            program(name)
        prometheus_program("prometheus")
        if "argocd" in sys.argv:
            argocd_parts()
        LocalImages.build()
    except (ClusterError, BuildError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
