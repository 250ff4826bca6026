"""The Octavo router: one OpenAI endpoint for all models of a cluster."""
