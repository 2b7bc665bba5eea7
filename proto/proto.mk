# Filled by the proto/ folder: .proto -> C. PROTO_* variables and rules.
