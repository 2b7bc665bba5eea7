# .proto -> descriptor set -> (strings become bytes, maps repeated entries) -> C. proto/README.md says why.
# PROTO_LIB is linked with everything of vault/ that speaks the wire; objects there need PROTO_GEN first.
PROTO_SRC  := $(patsubst proto/%,%,$(sort $(shell find proto -name '*.proto')))
PROTO_WKT  := $(addprefix google/protobuf/,any.proto duration.proto field_mask.proto timestamp.proto wrappers.proto)
PROTO_DIR  := $(BUILD)/gen
PROTO_GEN  := $(PROTO_DIR)/.stamp
PROTO_OBJ  := $(patsubst %.proto,$(BUILD)/obj/gen/%.pb-c.o,$(PROTO_SRC) $(PROTO_WKT)) $(BUILD)/obj/gen/proto_index.o
PROTO_LIB  := $(BUILD)/lib/libproto-gen.a

$(PROTO_GEN): $(addprefix proto/,$(PROTO_SRC)) tools/proto-transform proto/proto.mk
	@mkdir -p $(@D)
	@$(call say,PROTO,$@)
	$(Q)protoc -I proto -I /usr/include --include_imports --descriptor_set_out=$(PROTO_DIR)/plain.pb $(PROTO_SRC)
	$(Q)tools/proto-transform $(PROTO_DIR)/plain.pb $(PROTO_DIR)/c.pb $(PROTO_DIR)
	$(Q)protoc-c --descriptor_set_in=$(PROTO_DIR)/c.pb --c_out=$(PROTO_DIR) $(PROTO_SRC) $(PROTO_WKT)
	@touch $@

# Generated code is not ours to make warning-free; what is ours includes its headers as system headers.
$(PROTO_OBJ): $(BUILD)/obj/gen/%.o: $(PROTO_GEN)
	@mkdir -p $(@D)
	@$(call say,CC,$@)
	$(Q)$(CC) $(filter-out -W%,$(CFLAGS)) -c $(PROTO_DIR)/$*.c -o $@
$(PROTO_LIB): $(PROTO_OBJ)
	@mkdir -p $(@D)
	@rm -f $@
	@$(call say,AR,$@)
	$(Q)ar rcs $@ $^

$(patsubst %.c,$(BUILD)/obj/%.o,$(shell find vault tests -name '*.c')): | $(PROTO_GEN)

# Python stubs for tests; `import claviger_pb` first: it lets google.* and grpc.* hold our modules beside Debian's.
PYGEN := $(BUILD)/pygen
.PHONY: pygen
pygen: $(PYGEN)/.stamp
$(PYGEN)/.stamp: $(addprefix proto/,$(PROTO_SRC)) proto/proto.mk proto/claviger_pb.py
	@rm -rf $(PYGEN) && mkdir -p $(PYGEN)
	$(PY) -m grpc_tools.protoc -I proto -I /usr/include --python_out=$(PYGEN) --grpc_python_out=$(PYGEN) $(PROTO_SRC)
	cp proto/claviger_pb.py $(PYGEN)/
	@touch $@
