"""The command line: `python -m e2e.cluster up|down|load|kubeconfig|binaries`."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from e2e.cluster.cluster import Cluster
from e2e.cluster.container_parts import container_parts
from e2e.cluster.errors import ClusterError
from e2e.cluster.go_programs import linked_programs
from images.errors import BuildError

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
Name = Annotated[str, typer.Option(help="Which cluster; each network namespace can hold one.")]


@app.command()
def up(name: Name = "demo", nodes: Annotated[int, typer.Option(help="How many nodes it has.")] = 1) -> None:
    """Start a cluster and wait until it is ready."""
    started = time.monotonic()
    Cluster(name).up(nodes)
    print(f"up in {time.monotonic() - started:.1f} s; export KUBECONFIG={Cluster(name).kubeconfig}")


@app.command()
def down(name: Name = "demo") -> None:
    """Stop it and leave nothing behind."""
    started = time.monotonic()
    Cluster(name).down()
    print(f"down in {time.monotonic() - started:.1f} s")


@app.command()
def load(archives: list[Path], name: Name = "demo") -> None:
    """Import OCI image archives into all nodes."""
    Cluster(name).load(archives)


@app.command("kubeconfig")
def print_kubeconfig(name: Name = "demo") -> None:
    """Print where the administrator's kubeconfig lies."""
    print(Cluster(name).kubeconfig)


@app.command()
def binaries() -> None:
    """Build and fetch all that `up` needs, so that it works without a network; print the programs' folder."""

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    container_parts(say)
    print(linked_programs(say))


def main() -> None:
    """Run the command line; what is wrong is said in one sentence."""
    try:
        app()
    except (ClusterError, BuildError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
