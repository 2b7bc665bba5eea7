# Memory and threads: make soak | oom | valgrind.

# soak: the daemon under mixed load, with kills and reloads; nothing may grow (tests/soak/README.md). CONTROL=1: must fail
MINUTES ?= 30
.PHONY: soak
soak: all pygen
	CLV_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(PY) tests/soak/soak.py --minutes $(MINUTES) $(if $(CONTROL),--leak)

# oom: the Nth allocation fails (tests/memory/README.md); LONG=1: every N
.PHONY: oom
oom: all pygen
	CLV_BUILD=$(abspath $(BUILD)) LONG=$(LONG) PYTHONDONTWRITEBYTECODE=1 $(PY) -m pytest -q -s -p no:cacheprovider tests/memory

# valgrind: memcheck over the unit tests and over each of the four processes (tools/run-valgrind says what is left out, and why)
.PHONY: valgrind
valgrind:
	@tools/deps test
	@$(MAKE) -j$(JOBS) FLAVOUR=valgrind BUILD=build/valgrind all pygen planted $(patsubst $(BUILD)/%,build/valgrind/%,$(UNIT_BIN) $(HSM_SHIM))
	@tools/run-valgrind build/valgrind
