"""The Octavo engine: a PagedAttention inference server for language models."""
