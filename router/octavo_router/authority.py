"""HOST:PORT as URLs spell it."""


def authority(host: str, port: int | str) -> str:
    """The host and port of a URL; an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
