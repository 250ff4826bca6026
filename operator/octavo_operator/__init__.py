"""The Octavo operator: LLMDeployment resources to Kubernetes objects."""
