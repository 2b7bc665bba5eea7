# make test, integration, conformance, bench ... (tests/README.md)

# what unit tests answer in place of the system (Makefile)
WRAP_kms/crypto/test_cipher := mmap
WRAP_kms/crypto/test_nonce  := open read
WRAP_base/test_clock         := open read
WRAP_base/test_dir           := fsync
WRAP_base/test_thread        := pthread_create
WRAP_kms/audit/test_edges   := open fsync rename access fallocate
WRAP_kms/audit/test_disk    := $(WRAP_kms/audit/test_edges)

# conformance: docs/FORMATS.md against the code, by a decryptor that shares none of it (tests/conformance/README.md)
MAKE_RECORDS := $(BUILD)/conformance/make_records
BENCH_AEAD   := $(BUILD)/bench/bench_aead
$(MAKE_RECORDS): $(BUILD)/obj/tests/conformance/make_records.o $(call libs_for,kms/crypto)
$(BENCH_AEAD): $(BUILD)/obj/tests/bench/bench_aead.o $(call libs_for,kms/crypto)
$(MAKE_RECORDS) $(BENCH_AEAD):
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)
.PHONY: conformance formats bench-aead
conformance: $(MAKE_RECORDS)
	CLV_MAKE_RECORDS=$(abspath $(MAKE_RECORDS)) PYTHONDONTWRITEBYTECODE=1 $(PY) -m pytest -q -p no:cacheprovider tests/conformance
# After a deliberate change of a format: writes the worked examples of docs/FORMATS.md again.
formats: $(MAKE_RECORDS)
	$(PY) tests/conformance/update_formats.py $(MAKE_RECORDS)
bench-aead: $(BENCH_AEAD)
	$(BENCH_AEAD)

# hardware: a PKCS#11 module that fails on demand, and what is shown with it (tests/hardware/README.md); LONG=1: every fault at
# every call, a storm of minutes, ten minutes of churn. test_server and test_server_faults of hsm run on the same shim.
HSM_SHIM := $(BUILD)/hardware/shim.so
CHURN    := $(BUILD)/hardware/churn/churn
CHURN_UNLOCKED := $(BUILD)/hardware/churn/churn_unlocked
CAPABLE  := $(BUILD)/hardware/capable
SERVED   := $(BUILD)/hardware/served/served
COUNTER  := $(BUILD)/hardware/counter/kmsd-core $(BUILD)/hardware/counter/kmsd
HARDWARE := $(HSM_SHIM) $(CHURN) $(CHURN_UNLOCKED) $(CAPABLE) $(SERVED) $(COUNTER)
$(HSM_SHIM): tests/hardware/shim.c tests/hardware/plan.c tests/hardware/plan.h
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(CC) -std=gnu17 -g -I. -D_GNU_SOURCE $(WARN) -Wno-missing-prototypes -O2 -fPIC -shared $(PKG_CFLAGS) -o $@ $(filter %.c,$^) -ldl
$(CHURN): $(BUILD)/obj/tests/hardware/churn.o $(call libs_for,hsm) | $(BUILD)/bin/kmsd-hsm
$(CHURN_UNLOCKED): $(BUILD)/obj/tests/hardware/churn_unlocked.o $(call libs_for,base)
$(CAPABLE): $(BUILD)/obj/tests/hardware/capable.o $(call libs_for,hsm)
$(SERVED): $(BUILD)/obj/tests/hardware/served.o $(call libs_for,hsm) | $(BUILD)/bin/kmsd-hsm
$(CHURN) $(CHURN_UNLOCKED) $(CAPABLE) $(SERVED):
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS) -lcmocka
$(BUILD)/unit/hsm/test_server $(BUILD)/unit/hsm/test_server_faults: | $(HSM_SHIM) $(BUILD)/bin/kmsd-hsm
$(BUILD)/unit/hsm/test_hostile: | $(HSM_SHIM)
$(BUILD)/unit/hsm/test_keys: | $(HSM_SHIM)
# in core's place, beside a copy of kmsd
$(BUILD)/hardware/counter/kmsd-core: $(BUILD)/obj/tests/hardware/counter.o $(call libs_for,vault/service)
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)
$(BUILD)/hardware/counter/kmsd: $(BUILD)/bin/kmsd | $(BUILD)/bin/kmsd-hsm $(BUILD)/bin/kmsd-front
	@mkdir -p $(@D)
	@cp $< $@
	@ln -sf $(abspath $(BUILD)/bin/kmsd-hsm $(BUILD)/bin/kmsd-front) $(@D)/
.PHONY: hardware hardware-programs capabilities
# capabilities: hsm/, kmsd-hsm and whole daemons on SoftHSM2, NSS softoken and opencryptoki: what each token can do, and by name what it cannot;
# LONG=1: then suites of tests/integration with every daemon on NSS softoken
ON_NSS := $(addprefix tests/integration/test_,hsm_keys.py encrypt.py envelope.py kms_resources.py rewrap.py rotation.py tenants.py idempotency.py certificates.py)
capabilities: all $(CAPABLE) $(SERVED) $(HSM_SHIM) pygen
	CLV_CAPABILITIES=1 CLV_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(PY) -m pytest -q -s -p no:cacheprovider tests/hardware/test_modules.py tests/hardware/test_daemons.py
	$(if $(LONG),PYTHONPATH=tests/hardware CLV_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(PY) -m pytest -q -rs -p no:cacheprovider -p on_nss $(ON_NSS))
hardware-programs: $(HARDWARE)
hardware: all pygen hardware-programs
	CLV_BUILD=$(abspath $(BUILD)) LONG=$(LONG) PYTHONDONTWRITEBYTECODE=1 $(PY) -m pytest -q -s -p no:cacheprovider $(if $(K),-k "$(K)") tests/hardware

# bench: kmsd against two echo servers under one load generator (tests/bench/README.md); writes docs/BENCHMARKS.md
BENCH_LOADGEN := $(BUILD)/bench/loadgen
BENCH_ECHO    := $(BUILD)/bench/echo_front
BENCH_TLS     := $(BUILD)/bench/echo_tls
$(BENCH_LOADGEN) $(BENCH_TLS): $(BUILD)/bench/%: $(BUILD)/obj/tests/bench/%.o $(call lib_of,base) $(PROTO_LIB)
BENCH_REWRAP  := $(BUILD)/bench/rewrap
$(BENCH_REWRAP): $(BUILD)/bench/%: $(BUILD)/obj/tests/bench/%.o $(call libs_for,vault/client)
$(BENCH_ECHO): $(BUILD)/bench/%: $(BUILD)/obj/tests/bench/%.o $(WIPEFREE_$(FLAVOUR)) $(call libs_for,vault/rpc)
$(BENCH_LOADGEN) $(BENCH_TLS) $(BENCH_ECHO) $(BENCH_REWRAP):
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)
.PHONY: bench bench-programs
bench-programs: $(BENCH_LOADGEN) $(BENCH_TLS) $(BENCH_ECHO) $(BENCH_REWRAP)
bench: all pygen bench-programs $(BUILD)/bench/fill_store
	PYTHONDONTWRITEBYTECODE=1 $(PY) tests/bench/bench.py --build $(BUILD) $(BENCH_ARGS)

# large: a store of a million rows: start, fsck, memory (tests/bench/README.md); takes minutes and 2 GB of disk
BENCH_FILL := $(BUILD)/bench/fill_store
$(BENCH_FILL): $(BUILD)/obj/tests/bench/fill_store.o $(call libs_for,vault/service)
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)
.PHONY: large
large: all pygen $(BENCH_FILL)
	CLV_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(PY) tests/bench/large_store.py $(LARGE_ARGS)
# master: the master rotates over 100,000 key versions while a client works; seal: the store's seal secret over the rows of as many keys.
# MASTER_ARGS="--keys N --pace N"
.PHONY: master seal
master seal: all pygen $(BENCH_FILL)
	CLV_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(PY) tests/bench/rotate_secret.py --what $@ $(MASTER_ARGS)

# matrix: every RPC x every identity x every place, and the clock's jumps (tests/matrix/README.md)
.PHONY: matrix
matrix: all pygen
	CLV_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(PY) -m pytest -q -p no:cacheprovider tests/matrix

# integration: the daemon from outside, by Python's gRPC over TLS (tests/integration/README.md); one file: make K=test_audit integration
.PHONY: integration
integration: all pygen
	CLV_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(PY) -m pytest -q -p no:cacheprovider $(if $(K),-k "$(K)") \
	    --ignore=tests/integration/front --ignore=tests/integration/interop tests/integration

# hostile: the whole daemon under attack while a good client works (tests/hostile/README.md); LONG=1: a minute each
.PHONY: hostile
hostile: all pygen
	CLV_BUILD=$(abspath $(BUILD)) LONG=$(LONG) PYTHONDONTWRITEBYTECODE=1 $(PY) -m pytest -q -s -p no:cacheprovider $(if $(K),-k "$(K)") tests/hostile

# differential: compiled policy against the slow reference, as many cases as one likes (test_differential has 150,000 in `make test`)
CASES ?= 10000000
.PHONY: differential
differential: $(BUILD)/unit/kms/policy/test_differential
	CLV_POLICY_CASES=$(CASES) $<

# crash: kill -9, errors and short writes at every call by which core changes anything (tests/crash/README.md); POINTS=10000 SEED=n LANES=4. Then CUTS=2000
# power cuts under store and journal
CRASH_PROGRAMS := $(BUILD)/crash/inject.so $(BUILD)/crash/kmsd-core
$(BUILD)/crash/inject.so: tests/crash/inject.c tests/crash/page.h
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(CC) -std=gnu17 -g -I. -D_GNU_SOURCE $(WARN) -O2 -fPIC -shared -o $@ $<
$(BUILD)/crash/kmsd-core: tests/crash/core.c
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(CC) -std=gnu17 -g -D_GNU_SOURCE $(WARN) -O2 -o $@ $<
POINTS ?= 10000
LANES  ?= 4
CUTS   ?= 2000
POWERCUTS := $(BUILD)/unit/kms/store/test_powercut $(BUILD)/unit/kms/audit/test_powercut
.PHONY: crash
crash: all pygen $(CRASH_PROGRAMS) $(POWERCUTS)
	CLV_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(PY) tests/crash/crash.py --points $(POINTS) --lanes $(LANES) $(if $(SEED),--seed $(SEED))
	CLV_CUT_POINTS=$(CUTS) CLV_CUT_SEED=$(or $(SEED),1) $(BUILD)/unit/kms/store/test_powercut
	CLV_CUT_POINTS=$(CUTS) CLV_CUT_SEED=$(or $(SEED),1) $(BUILD)/unit/kms/audit/test_powercut

# leaks: where secrets may lie, and whether time depends on one (tests/leaks/README.md). The scanner is no part of what it looks at:
# it is built plainly in every flavour.
LEAKS_SCAN    := $(BUILD)/leaks/scan
LEAKS_CTGRIND := $(BUILD)/leaks/ctgrind
LEAKS_PROBE   := $(BUILD)/leaks/dump_probe
LEAKS_CLIENT  := $(BUILD)/leaks/client_probe
$(LEAKS_SCAN): tests/leaks/scan.c
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(CC) -std=gnu17 -g -O2 -D_GNU_SOURCE $(WARN) -o $@ $<
$(LEAKS_CTGRIND): $(BUILD)/obj/tests/leaks/ctgrind.o $(call lib_of,vault/client) $(PROTO_LIB) $(call libs_for,kms/crypto)
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -Wl,--wrap=bytes_ct_equal -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)
$(LEAKS_PROBE): $(BUILD)/obj/tests/leaks/dump_probe.o $(WIPEFREE_$(FLAVOUR)) $(call libs_for,kms/crypto)
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)
$(LEAKS_CLIENT): $(BUILD)/obj/tests/leaks/client_probe.o $(WIPEFREE_$(FLAVOUR)) $(call libs_for,vault/client)
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)
test-programs: $(LEAKS_SCAN) $(LEAKS_CTGRIND) $(LEAKS_PROBE) $(LEAKS_CLIENT)
.PHONY: leaks
leaks: all pygen $(LEAKS_SCAN) $(LEAKS_CTGRIND) $(LEAKS_PROBE) $(LEAKS_CLIENT)
	CLV_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(PY) -m pytest -q -p no:cacheprovider tests/leaks

include tests/memory.mk
