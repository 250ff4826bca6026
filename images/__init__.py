"""The container images, built without Docker."""
