# The daemon again, with two RPCs more (planted.c), and what prints its table: proof that a new RPC is in the matrix.
PLANT      := $(BUILD)/matrix/planted
PLANT_OBJ  := $(BUILD)/obj/tests/matrix/planted.o
PLANT_CORE := $(PLANT)/bin/kmsd-core
PLANT_LINK  = $(CC) $(LDFLAGS) -Wl,--wrap=table_rows -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)
$(PLANT_CORE): $(BUILD)/obj/vault/cmd/kmsd-core.o $(PLANT_OBJ) $(WIPEFREE_$(FLAVOUR)) $(QUALITY_runtime) $(QUALITY_leave) $(call libs_for,vault/rpc) \
               | $(filter-out %/kmsd-core,$(PROGRAMS))
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(PLANT_LINK)
	@ln -sf $(abspath $(filter-out %/kmsd-core %/kmsd,$(PROGRAMS))) $(@D)/
$(PLANT)/bin/kmsd: $(BUILD)/bin/kmsd
	@mkdir -p $(@D)
	@cp $< $@
$(PLANT)/api_rows: $(BUILD)/obj/tests/checks/api_rows.o $(PLANT_OBJ) $(QUALITY_runtime) $(QUALITY_leave) $(call libs_for,vault/service)
	@mkdir -p $(@D)
	@$(call say,LD,$@)
	$(Q)$(PLANT_LINK)
.PHONY: matrix-planted
matrix-planted: $(PLANT_CORE) $(PLANT)/bin/kmsd $(PLANT)/api_rows
matrix test-programs: matrix-planted
