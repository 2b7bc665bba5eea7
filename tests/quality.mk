# The quality targets: make asan | tsan | cover | tidy | fuzz | fuzz-smoke | interop. Each builds in a tree of its own.

# ---- sanitizers and coverage: the suites of `make test`, again ---------------------------------------------------------
# tests/quality/runtime.c and leave.c say what they do there. In forked children of unit tests only counters are wanted: the
# stacks of other threads are gone, and all that they held would look leaked.
ifneq ($(filter asan tsan cover valgrind,$(FLAVOUR)),)
QUALITY_runtime := $(if $(filter asan tsan,$(FLAVOUR)),$(BUILD)/obj/tests/quality/runtime.o)
QUALITY_leave   := $(if $(filter asan cover,$(FLAVOUR)),$(BUILD)/obj/tests/quality/leave.o)
$(BUILD)/obj/tests/quality/%.o: CFLAGS += -DQUALITY_$(FLAVOUR) -DQUALITY_REPORTS='"$(abspath $(BUILD))/reports/r"' \
    -DQUALITY_SUPPRESSIONS='"$(abspath tests/suppressions)"'
$(PROGRAMS) $(BUILD)/hardware/counter/kmsd-core: $(QUALITY_runtime) $(QUALITY_leave)
$(UNIT_BIN): $(QUALITY_runtime) $(if $(filter cover,$(FLAVOUR)),$(QUALITY_leave))
# The daemon again, with a defect in its core (tests/quality/planted.c).
PLANTED := $(BUILD)/planted/bin
.PHONY: planted
planted: $(PLANTED)/kmsd-core $(filter-out %/kmsd-core,$(PROGRAMS))
	@ln -sf $(abspath $(filter-out %/kmsd-core,$(PROGRAMS))) $(PLANTED)/
	@rm -f $(PLANTED)/kmsd && cp $(BUILD)/bin/kmsd $(PLANTED)/
$(PLANTED)/kmsd-core: $(BUILD)/obj/vault/cmd/kmsd-core.o $(BUILD)/obj/tests/quality/planted.o $(QUALITY_runtime) $(QUALITY_leave) $(call libs_for,vault/rpc)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)
endif

# The runs happen in a make of the flavour: some tests build on what was built and need its flags.
.PHONY: asan tsan cover sanitized covered
asan tsan:
	@tools/deps test
	@$(MAKE) -j$(JOBS) FLAVOUR=$@ BUILD=build/$@ test-programs planted
	@$(MAKE) FLAVOUR=$@ BUILD=build/$@ sanitized
sanitized:
	@tools/run-sanitized $(FLAVOUR) $(BUILD)
cover:
	@tools/deps cover
	@$(MAKE) -j$(JOBS) FLAVOUR=$@ BUILD=build/$@ test-programs
	@$(MAKE) FLAVOUR=$@ BUILD=build/$@ covered
covered:
	@find $(BUILD) -name '*.gcda' -delete
	@rc=0; tools/run-tests $(BUILD) || rc=1; tools/coverage $(BUILD) || rc=1; exit $$rc

# ---- fuzzing: every tests/fuzz/fuzz_<name>.c with the libraries of the folder that it attacks --------------------------
# A crash stops the run and leaves its input in build/fuzz/found/<name>; mended, it becomes a seed in tests/fuzz/corpus/<name>.
FUZZ_config   := base
FUZZ_kdfenc   := base
FUZZ_uri      := hsm
FUZZ_answers  := hsm
FUZZ_hsm_reply := hsm
FUZZ_hsm_request := hsm
FUZZ_format   := kms/crypto
FUZZ_name     := kms/name
FUZZ_event    := kms/audit
FUZZ_journal  := kms/audit
FUZZ_row      := kms/store
FUZZ_fresh    := kms/store
FUZZ_conn_new := kms/authn
FUZZ_san      := kms/authn
FUZZ_policy   := kms/policy
FUZZ_decide   := kms/policy
FUZZ_model    := kms/keyring
FUZZ_usage    := kms/keyring
FUZZ_decode   := vault/service
FUZZ_idempotency := vault/service
FUZZ_listing  := vault/service
FUZZ_policer  := vault/front
FUZZ_front_channel := vault/rpc
FUZZ_csv      := vault/client
FUZZ_note     := vault/client
FUZZ_reply    := vault/client
FUZZ_NAMES := $(patsubst tests/fuzz/fuzz_%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
SECONDS ?= 60
# The same targets twice: with libFuzzer in the fuzz flavour, and in every other with a main that replays the kept inputs.
FUZZ_DIR  := $(BUILD)/$(if $(filter fuzz,$(FLAVOUR)),bin,fuzz)
FUZZ_MAIN := $(if $(filter fuzz,$(FLAVOUR)),,$(BUILD)/obj/tests/fuzz/replay.o)
FUZZ_BIN  := $(patsubst %,$(FUZZ_DIR)/fuzz_%,$(FUZZ_NAMES))
define fuzz_rule # name
$$(if $$(FUZZ_$(1)),,$$(error tests/fuzz/fuzz_$(1).c: name its folder in tests/quality.mk))
$(FUZZ_DIR)/fuzz_$(1): $(BUILD)/obj/tests/fuzz/fuzz_$(1).o $(FUZZ_MAIN) $$(call libs_for,$$(FUZZ_$(1)))
	@mkdir -p $$(@D)
	@$$(call say,LD,$$@)
	$(Q)$(CC) $$(LDFLAGS) $(if $(filter fuzz,$(FLAVOUR)),-fsanitize=fuzzer) -o $$@ $$(filter %.o,$$^) -Wl,--start-group $$(filter %.a,$$^) -Wl,--end-group $(LDLIBS)
endef
$(foreach n,$(FUZZ_NAMES),$(eval $(call fuzz_rule,$(n))))
$(FUZZ_DIR)/fuzz_csv $(FUZZ_DIR)/fuzz_note $(FUZZ_DIR)/fuzz_reply: $(filter-out %/main.o,$(KMSCTL_OBJ)) $(call lib_of,kms/name)
$(BUILD)/gen/fuzz_descriptors.inc: $(PROTO_LIB)
	@nm -g --defined-only $< | awk '$$3 ~ /^[a-z].*__descriptor$$/ { print "X(" $$3 ")" }' >$@
$(BUILD)/obj/tests/fuzz/fuzz_reply.o: $(BUILD)/gen/fuzz_descriptors.inc
$(FUZZ_DIR)/fuzz_reply: LDFLAGS += -Wl,--wrap=rpc_unary,--wrap=rpc_start,--wrap=rpc_finish
ifneq ($(FLAVOUR),fuzz)
$(FUZZ_BIN): $(QUALITY_runtime) $(if $(filter cover,$(FLAVOUR)),$(QUALITY_leave))
test-programs: $(FUZZ_BIN)
endif
.PHONY: fuzz-programs replay
fuzz-programs: $(FUZZ_BIN)
replay: $(FUZZ_BIN)
	@tools/run-replay $(BUILD)
# Which to run, and how many at a time: make fuzz NAMES="uri csv" JOBS=1
NAMES ?= $(FUZZ_NAMES)
.PHONY: fuzz fuzz-smoke fuzz-keep
fuzz:
	@tools/deps test
	@$(MAKE) -j$(JOBS) FLAVOUR=fuzz BUILD=build/fuzz CC=clang-14 $(patsubst %,build/fuzz/bin/fuzz_%,$(NAMES))
	@tools/run-fuzz build/fuzz $(SECONDS) $(JOBS) $(NAMES)
fuzz-smoke:
	@$(MAKE) SECONDS=5 fuzz
# What the runs have learnt, made small, into tests/fuzz/corpus.
fuzz-keep:
	@tools/keep-corpus build/fuzz $(NAMES)

# ---- static analysis: .clang-tidy says which checks, and why others are off ---------------------------------------------
.PHONY: tidy
tidy:
	@tools/deps test
	@$(MAKE) BUILD=build/tidy build/tidy/gen/.stamp
	@tools/run-tidy build/tidy $(JOBS) $(FILES)

# ---- tests of the tests: tools/mutate says which files, which tests answer for them, and what must be caught ---------------
# make mutate [FILES="kms/name/name.c"]
MUTATE_LIBS := base kms/crypto kms/name kms/policy
.PHONY: mutate
mutate: $(foreach d,$(MUTATE_LIBS),$(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/$(d)/test_*.c)))
	@CC='$(CC)' CFLAGS='$(CFLAGS)' LDFLAGS='$(LDFLAGS)' LDLIBS='$(LDLIBS)' JOBS=$(JOBS) \
	    $(foreach d,$(MUTATE_LIBS),LIBS_$(subst /,_,$(d))='$(call libs_for,$(d))') tools/mutate $(BUILD) $(FILES)

# ---- the published client -------------------------------------------------------------------------------------------------
.PHONY: interop
interop:
	@command -v node >/dev/null && command -v npm >/dev/null || tools/deps interop
	@$(MAKE) -j$(JOBS) all pygen
	@tests/integration/interop/run $(BUILD)

include tests/matrix/matrix.mk
