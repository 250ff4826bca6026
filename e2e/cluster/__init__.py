"""A real Kubernetes cluster on one machine, without Docker: nodes made of Linux namespaces."""
