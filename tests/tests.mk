# make test, integration, conformance, bench ... (tests/README.md)

# conformance: docs/FORMATS.md against the code, by a decryptor that shares none of it (tests/conformance/README.md)
MAKE_RECORDS := $(BUILD)/conformance/make_records
BENCH_AEAD   := $(BUILD)/bench/bench_aead
$(MAKE_RECORDS): $(BUILD)/obj/tests/conformance/make_records.o $(call libs_for,kms/crypto)
$(BENCH_AEAD): $(BUILD)/obj/tests/bench/bench_aead.o $(call libs_for,kms/crypto)
$(MAKE_RECORDS) $(BENCH_AEAD):
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)
.PHONY: conformance formats bench-aead
conformance: $(MAKE_RECORDS)
	CLV_MAKE_RECORDS=$(abspath $(MAKE_RECORDS)) PYTHONDONTWRITEBYTECODE=1 $(PY) -m pytest -q -p no:cacheprovider tests/conformance
# After a deliberate change of a format: writes the worked examples of docs/FORMATS.md again.
formats: $(MAKE_RECORDS)
	$(PY) tests/conformance/update_formats.py $(MAKE_RECORDS)
bench-aead: $(BENCH_AEAD)
	$(BENCH_AEAD)
