"""Measurements that need no server: ``octavo-engine bench throughput|latency``."""
