# Claviger. `make run`: a development instance doing its job on real input. `make test`: everything that must hold.
# Also: make asan | tsan | bench | cover | mutate | tidy | interop | fuzz-smoke | layers | headers | banned | install.
#
# One build tree for each flavour: BUILD=build/dev (default), build/asan, build/tsan, build/cover.
# Layout: one static library for each folder of docs/LAYERS; a folder links what that page allows it to include.

MAKEFLAGS += --no-builtin-rules --no-print-directory
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

VERSION := 0.1.0
# One short line a command; V=1 shows them whole.
Q       := $(if $(V),,@)
say      = $(if $(V),:,printf '  %-7s %s\n' '$(1)' '$(2:$(BUILD)/%=%)')
CC      ?= gcc
ifeq ($(origin CC),default)
CC      := gcc
endif
FLAVOUR ?= dev
BUILD   ?= build/$(FLAVOUR)
PREFIX  ?= /usr/local
PY      := /usr/bin/python3
VECTORS_DIR ?= ../shared/vectors

PKGS    := libprotobuf-c sqlite3 libsodium openssl p11-kit-1 libcyaml jansson libseccomp
PKG_CFLAGS := $(patsubst -I%,-isystem %,$(shell pkg-config --cflags $(PKGS) grpc 2>/dev/null))
PKG_LIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

WARN    := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef -Werror
HARDEN  := -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection -fcf-protection -fPIE
LDHARDEN:= -pie -Wl,-z,relro,-z,now -Wl,-z,noexecstack
OPT_dev   := -O2 $(HARDEN)
OPT_asan  := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -fPIE
OPT_tsan  := -O1 -fsanitize=thread -fno-omit-frame-pointer -fPIE
OPT_cover := -O0 --coverage -fprofile-update=atomic -fPIE
OPT_valgrind := -O1 -fno-omit-frame-pointer -fPIE -DCLV_VALGRIND
OPT_fuzz  := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -fPIE
OPT_nolog := $(OPT_dev) -DCLV_BENCH_AUDIT_OFF
CFLAGS  := -std=gnu17 -g -I. -isystem $(BUILD)/gen -DPROTOBUF_C__NO_DEPRECATED -D_GNU_SOURCE -DCLV_VERSION='"$(VERSION)"' -pthread $(WARN) $(OPT_$(FLAVOUR)) $(PKG_CFLAGS) -MMD -MP
LDFLAGS := -pthread $(OPT_$(FLAVOUR)) $(LDHARDEN)
LDLIBS  := -Wl,--as-needed $(PKG_LIBS) -lgrpc -lgpr -lpthread -ldl -lm

# ---- folders and what each may link (docs/LAYERS) ----------------------------------------------------------------
DIRS      := $(shell sed -e '/^#/d' -e 's/:.*//' docs/LAYERS)
deps_of    = $(shell awk -v want=$(1) '/^#/ || !NF {next} {split($$0,f,":"); d=f[1]; if (d==want) {print (index($$0,":") ? f[2] : all); exit} all=all " " d}' docs/LAYERS)
closure    = $(shell awk -v want="$(1)" '/^\#/ || !NF {next} {split($$0,f,":"); d=f[1]; deps[d]=(index($$0,":") ? f[2] : all); all=all " " d; order[++n]=d} \
             END {need[want]=1; for (i=n;i>=1;i--) {d=order[i]; if (need[d]) {m=split(deps[d],x," "); for (j=1;j<=m;j++) need[x[j]]=1}} for (i=n;i>=1;i--) if (need[order[i]]) print order[i]}' docs/LAYERS)
lib_of     = $(BUILD)/lib/lib$(subst /,-,$(1)).a
libs_for   = $(foreach d,$(call closure,$(1)),$(call lib_of,$(d))) $(if $(filter vault/service vault/client,$(call closure,$(1))),$(PROTO_LIB))

define folder_rules
OBJ_$(subst /,_,$(1)) := $$(patsubst %.c,$(BUILD)/obj/%.o,$$(filter-out base/wipefree.c,$$(wildcard $(1)/*.c)))
$(call lib_of,$(1)): $$(OBJ_$(subst /,_,$(1)))
	@mkdir -p $$(@D)
	@rm -f $$@
	@$(call say,AR,$$@)
	$(Q)ar rcs $$@ $$^
endef
LIBDIRS := $(filter-out vault/cmd,$(DIRS))
$(foreach d,$(LIBDIRS),$(eval $(call folder_rules,$(d))))

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	@$(call say,CC,$@)
	$(Q)$(CC) $(CFLAGS) -c $< -o $@

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)

# ---- generated protobuf-c code: .proto -> descriptor set -> strings become bytes -> C (proto/README.md) ------------
include proto/proto.mk

# ---- programs: vault/cmd/<name>.c or vault/cmd/<name>/*.c, each with the folder whose layers it links -------------
WIPEFREE_dev := $(BUILD)/obj/base/wipefree.o
WIPEFREE_nolog := $(WIPEFREE_dev)
PROGRAMS :=
define program # name, folder closure
PROGRAMS += $(BUILD)/bin/$(1)
$(BUILD)/bin/$(1): $$(patsubst %.c,$(BUILD)/obj/%.o,$$(wildcard vault/cmd/$(1).c vault/cmd/$(1)/*.c)) $$(WIPEFREE_$(FLAVOUR)) $$(call libs_for,$(2))
	@mkdir -p $$(@D)
	@$(call say,LD,$$@)
	$(Q)$(CC) $(LDFLAGS) -o $$@ $$(filter %.o,$$^) -Wl,--start-group $$(filter %.a,$$^) -Wl,--end-group $(LDLIBS)
endef
$(eval $(call program,kmsd,vault/ops))
$(eval $(call program,kmsd-front,vault/front))
$(eval $(call program,kmsd-hsm,hsm))
$(eval $(call program,kmsd-core,vault/rpc))
$(eval $(call program,kmsctl,vault/client))

.PHONY: all
all: $(PROGRAMS)

# ---- unit tests: tests/unit/<folder>/test_<module>.c links what <folder> links -------------------------------------
# WRAP_<folder>/test_<module> names the calls that a test answers itself (ld --wrap): faults that nothing else provokes.
UNIT_SRC  := $(shell find tests/unit -name 'test_*.c' 2>/dev/null)
UNIT_BIN  := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(UNIT_SRC))
define unit_rule # source
$(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(1)): $(patsubst %.c,$(BUILD)/obj/%.o,$(1)) $$(call libs_for,$(patsubst tests/unit/%/,%,$(dir $(1))))
	@mkdir -p $$(@D)
	@$(call say,LD,$$@)
	$(Q)$(CC) $(LDFLAGS) $$(addprefix -Wl$$(,)--wrap=,$$(WRAP_$(patsubst tests/unit/%.c,%,$(1)))) -o $$@ $$(filter %.o,$$^) -Wl,--start-group $$(filter %.a,$$^) -Wl,--end-group $(LDLIBS) -lcmocka
endef
, := ,
$(foreach s,$(UNIT_SRC),$(eval $(call unit_rule,$(s))))
.PHONY: unit
unit: $(UNIT_BIN)
	@VECTORS_DIR=$(abspath $(VECTORS_DIR)) tools/run-unit $(UNIT_BIN)
# One module while working on it: make T=kms/crypto/test_aead one
.PHONY: one
one: $(BUILD)/unit/$(T)
	VECTORS_DIR=$(abspath $(VECTORS_DIR)) $<

# ---- everything that must hold ---------------------------------------------------------------------------------------
# The packages must be there before the build is planned, so the rest runs in a make of its own.
JOBS := $(shell nproc)
TEST_PROGRAMS = all bench-programs pygen $(UNIT_BIN) $(MAKE_RECORDS) $(HARDWARE) $(CRASH_PROGRAMS)
.PHONY: test test-built layers headers banned
test:
	@tools/deps test
	@$(MAKE) -j$(JOBS) test-built
test-built: test-programs
	@tools/run-tests $(BUILD)
layers:
	@tools/check-layers
banned:
	@tools/check-banned
headers: $(PROTO_GEN)
	@tools/check-headers $(BUILD)

include tests/tests.mk
include tools/tools.mk

.PHONY: test-programs
test-programs: $(TEST_PROGRAMS)
include tests/quality.mk
