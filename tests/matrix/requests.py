"""A request for any RPC, from nothing but its descriptor: every field filled with something plain, one of them with the name under test.

No RPC is named here. A new one that these rules cannot fill fails test_matrix.py::test_every_row_was_exercised, which says what it wants."""
DEPTH = 4
LEFT_OUT = ("google.protobuf.",)  # masks, times, checksums: looked at after existence, and wrong ones would hide it


def _inner(field):
    return field.type == field.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry \
        and not field.message_type.full_name.startswith(LEFT_OUT)


def text_fields(descriptor, depth=DEPTH, prefix=()):
    """Paths of all plain string fields: any of them may hold a name."""
    found = []
    for f in descriptor.fields:
        if f.type == f.TYPE_STRING and f.label != f.LABEL_REPEATED:
            found.append(prefix + (f.name,))
        elif _inner(f) and depth > 1:
            found += text_fields(f.message_type, depth - 1, prefix + (f.name,))
    return found


def is_child(path):
    """The last part of a name that will be: "key_ring_id"."""
    return path[-1].endswith("_id")


def child_default(path):
    return "1" if "version" in path[-1] else "matrix-new"


def build(row, path=(), name="", child=None, beside=None):
    """row's request with `name` at `path`, and `child` in its fields that name a child. beside: {another path: name}."""
    request = row.request()
    _fill(request, (), {**(beside or {}), path: name}, child, DEPTH)
    return request


def _fill(message, at, names, child, depth):
    for f in message.DESCRIPTOR.fields:
        here = at + (f.name,)
        if f.containing_oneof is not None and all(path[:len(here)] != here for path in names):
            continue
        if here in names:
            setattr(message, f.name, names[here])
        elif f.type == f.TYPE_STRING and f.label != f.LABEL_REPEATED and is_child(here):
            setattr(message, f.name, child or child_default(here))
        elif f.type == f.TYPE_BYTES and f.label != f.LABEL_REPEATED:
            setattr(message, f.name, b"x")
        elif _inner(f) and depth > 1:
            inner = getattr(message, f.name)
            inner = inner.add() if f.label == f.LABEL_REPEATED else inner
            inner.SetInParent()
            _fill(inner, here, names, child, depth - 1)


def in_items(row, path):
    """Whether that field is one of each item of a batch."""
    field = row.request.DESCRIPTOR.fields_by_name[path[0]]
    return len(path) > 1 and field.label == field.LABEL_REPEATED


def batch(row, path, first, second):
    """A batch of two: one item for each name."""
    request = build(row, path, first)
    request.MergeFrom(build(row, path, second))
    return request
