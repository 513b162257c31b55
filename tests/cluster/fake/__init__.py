"""A cluster for tests: the Kubernetes API over HTTP, operators, and pods that are processes of this machine."""
