"""Measurements: ``octavo-engine bench serve|throughput|latency|prefix|mixed``."""
