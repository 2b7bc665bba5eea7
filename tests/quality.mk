# The quality targets: make asan | tsan | cover | tidy | fuzz | fuzz-smoke | interop. Each builds in a tree of its own.

# ---- sanitizers and coverage: the suites of `make test`, again ---------------------------------------------------------
# tests/quality/runtime.c and leave.c say what they do there. In forked children of unit tests only counters are wanted: the
# stacks of other threads are gone, and all that they held would look leaked.
ifneq ($(filter asan tsan cover,$(FLAVOUR)),)
QUALITY_runtime := $(if $(filter asan tsan,$(FLAVOUR)),$(BUILD)/obj/tests/quality/runtime.o)
QUALITY_leave   := $(if $(filter asan cover,$(FLAVOUR)),$(BUILD)/obj/tests/quality/leave.o)
$(BUILD)/obj/tests/quality/%.o: CFLAGS += -DQUALITY_$(FLAVOUR) -DQUALITY_REPORTS='"$(abspath $(BUILD))/reports/r"' \
    -DQUALITY_SUPPRESSIONS='"$(abspath tests/suppressions)"'
$(PROGRAMS): $(QUALITY_runtime) $(QUALITY_leave)
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

.PHONY: asan tsan cover
asan tsan:
	@tools/deps test
	@$(MAKE) -j$(JOBS) FLAVOUR=$@ BUILD=build/$@ test-programs planted
	@tools/run-sanitized $@ build/$@
cover:
	@tools/deps test
	@$(MAKE) -j$(JOBS) FLAVOUR=$@ BUILD=build/$@ test-programs
	@find build/cover -name '*.gcda' -delete
	@tools/run-tests build/$@
	@tools/coverage build/$@
