# What a user types beside `make` and `make test`: deps, run, install; and what kmsctl and its tests link beyond the layers.

# kmsctl parses names with the server's own grammar.
$(BUILD)/bin/kmsctl: $(call lib_of,kms/name)
KMSCTL_OBJ := $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard vault/cmd/kmsctl/*.c))
KMSCTL_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/vault/client/test_kmsctl_*.c))
$(KMSCTL_TESTS): $(filter-out %/main.o,$(KMSCTL_OBJ)) $(call lib_of,kms/name)

# Their stand-in for the daemon speaks through the generated Python stubs; test_install builds against the installed library.
$(BUILD)/unit/vault/client/test_client $(BUILD)/unit/vault/client/test_install $(KMSCTL_TESTS): | $(PYGEN)/.stamp
$(BUILD)/unit/vault/client/test_install: | $(BUILD)/lib/libclaviger.a
export CLV_TEST_FLAGS := $(filter -fsanitize% --coverage,$(OPT_$(FLAVOUR)))

# ---- packages -----------------------------------------------------------------------------------------------------------
.PHONY: deps
deps:
	@tools/deps build

# ---- a development instance ---------------------------------------------------------------------------------------------
# The packages must be there before the build is planned, so the rest runs in a make of its own.
.PHONY: run run-built
run:
	@tools/deps build
	@$(MAKE) run-built
run-built: all
	@tools/dev-instance --build $(BUILD) --run

# ---- install ------------------------------------------------------------------------------------------------------------
# The library is one relocatable object with everything it needs of ours inside, and only claviger_* visible: base/ and the
# generated messages cannot clash with a service's own names.
LIBCLAVIGER := $(BUILD)/lib/libclaviger.a
CLIENT_PARTS := $(OBJ_vault_client) $(call lib_of,base) $(PROTO_LIB)
$(LIBCLAVIGER): $(CLIENT_PARTS)
	@mkdir -p $(@D)
	@rm -f $@
	@$(call say,LD,$@)
	$(Q)ld -r -o $(BUILD)/lib/claviger.o $(OBJ_vault_client) --start-group $(call lib_of,base) $(PROTO_LIB) --end-group
	@$(call say,OBJCOPY,$@)
	$(Q)objcopy --wildcard --keep-global-symbol='claviger_*' --localize-symbol='claviger__*' $(BUILD)/lib/claviger.o
	@$(call say,AR,$@)
	$(Q)ar rcs $@ $(BUILD)/lib/claviger.o
.PHONY: install install-lib
install-lib: $(LIBCLAVIGER)
	install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -m 644 vault/client/claviger.h $(DESTDIR)$(PREFIX)/include/claviger.h
	install -m 644 $(LIBCLAVIGER) $(DESTDIR)$(PREFIX)/lib/libclaviger.a
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' vault/client/claviger.pc.in > $(DESTDIR)$(PREFIX)/lib/pkgconfig/claviger.pc
install: all install-lib
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/claviger/policies $(DESTDIR)$(PREFIX)/share/doc/claviger
	install -m 755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin/
	install -m 644 $(wildcard policies/*.yaml) $(DESTDIR)$(PREFIX)/share/claviger/policies/
	install -m 644 $(wildcard docs/*.md) $(DESTDIR)$(PREFIX)/share/doc/claviger/
