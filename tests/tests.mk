# make test, integration, conformance, bench ... (tests/README.md)
