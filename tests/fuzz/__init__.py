"""The fuzzer: random valid models, compiled in several ways, against two references; failures are shrunk."""
