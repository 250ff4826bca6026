"""Stands for Ray's command line in a paced group: `ray start --address=HOST:PORT` joins the leader."""

import socket
import sys


def main(words: list[str]) -> None:
    """Stay until the leader is gone."""
    address = next(word.removeprefix("--address=") for word in words if word.startswith("--address="))
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as leader:
        leader.sendall(socket.gethostname().encode())
        leader.recv(1)
    sys.exit("the leader is gone")


if __name__ == "__main__":
    main(sys.argv[1:])
