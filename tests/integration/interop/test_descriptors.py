"""Our descriptors against those that the published Node package carries: every message, field, enum value and method of ours
has the same name, number, type and label there, and what theirs has beside is reserved in ours. Part of `make interop`, which
installs the package and says where in CLV_KMS_PROTOS; no other target may fetch it.
"""
import json
import os
import re
import subprocess

import pytest
from google.protobuf import descriptor_pb2 as d

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
PROTOS = os.environ.get("CLV_KMS_PROTOS")
if PROTOS is None:
    pytest.skip("needs the published package: make interop", allow_module_level=True)
F = d.FieldDescriptorProto
SCALARS = {F.TYPE_DOUBLE: "double", F.TYPE_FLOAT: "float", F.TYPE_INT64: "int64", F.TYPE_UINT64: "uint64", F.TYPE_INT32: "int32",
           F.TYPE_UINT32: "uint32", F.TYPE_BOOL: "bool", F.TYPE_STRING: "string", F.TYPE_BYTES: "bytes"}


@pytest.fixture(scope="session")
def ours(tmp_path_factory):
    out = tmp_path_factory.mktemp("ours") / "set.pb"
    files = [f"google/cloud/kms/v1/{n}.proto" for n in ("resources", "service")]
    subprocess.run(["protoc", "-I", os.path.join(ROOT, "proto"), "-I", "/usr/include", f"--descriptor_set_out={out}", *files],
                   check=True)
    return d.FileDescriptorSet.FromString(out.read_bytes())


@pytest.fixture(scope="session")
def theirs():
    """The package's protos.json: names in camelCase, nested objects, one a namespace."""
    with open(os.path.join(PROTOS, "protos.json")) as f:
        node = json.load(f)
    for part in "google.cloud.kms.v1".split("."):
        node = node["nested"][part]
    return node["nested"]


def camel(name):
    return re.sub(r"_([a-z0-9])", lambda m: m.group(1).upper(), name)


def messages(fd):
    """(path of names, message), nested ones too, without the entries of maps."""
    def walk(path, m):
        yield path, m
        for n in m.nested_type:
            if not n.options.map_entry:
                yield from walk(path + [n.name], n)

    for m in fd.message_type:
        yield from walk([m.name], m)


def find(theirs, path):
    node = {"nested": theirs}
    for name in path:
        assert name in node.get("nested", {}), f"{'.'.join(path)} is not published"
        node = node["nested"][name]
    return node


def enums(ours):
    for fd in ours.file:
        for e in fd.enum_type:
            yield [e.name], e
        for path, m in messages(fd):
            for e in m.enum_type:
                yield path + [e.name], e


def check_type(where, f, m, published):
    entry = next((n for n in m.nested_type if n.options.map_entry and f.type_name.endswith("." + n.name)), None)
    if entry is not None:
        assert published.get("keyType") == SCALARS[entry.field[0].type], where
        assert published["type"] == SCALARS[entry.field[1].type], where
        assert "rule" not in published, where
        return
    assert "keyType" not in published, where
    assert published.get("rule") == ("repeated" if f.label == F.LABEL_REPEATED else None), where
    if f.type in SCALARS:
        assert published["type"] == SCALARS[f.type], where
    else:  # theirs is written relative to where it stands
        full = f.type_name.lstrip(".")
        assert full == published["type"] or full.endswith("." + published["type"]), where


def test_messages_and_fields(ours, theirs):
    checked = 0
    for fd in ours.file:
        for path, m in messages(fd):
            published = find(theirs, path)["fields"]
            for f in m.field:
                where = ".".join(path) + "." + f.name
                assert camel(f.name) in published, f"{where} is not published"
                assert published[camel(f.name)]["id"] == f.number, where
                check_type(where, f, m, published[camel(f.name)])
                checked += 1
    assert checked > 100  # a loop over nothing proves nothing


def test_what_we_leave_out_is_reserved_or_absent(ours, theirs):
    """A published number of a message of ours is never used for something else, and new ones in resources are noticed."""
    left_out = {}
    for fd in ours.file:
        for path, m in messages(fd):
            numbers = {f.number for f in m.field}
            reserved = {n for r in m.reserved_range for n in range(r.start, r.end)}
            for name, f in find(theirs, path)["fields"].items():
                if f["id"] not in numbers | reserved:
                    left_out[".".join(path)] = left_out.get(".".join(path), []) + [name]
    assert left_out == {}, "published fields that we neither serve nor reserve: a client's value would be ignored"


def test_oneofs(ours, theirs):
    for fd in ours.file:
        for path, m in messages(fd):
            published = find(theirs, path).get("oneofs", {})
            for i, o in enumerate(m.oneof_decl):
                mine = [camel(f.name) for f in m.field if f.HasField("oneof_index") and f.oneof_index == i]
                assert set(mine) <= set(published[camel(o.name)]["oneof"]), f"{path}.{o.name}"


def test_enums(ours, theirs):
    checked = 0
    for path, e in enums(ours):
        published = find(theirs, path)["values"]
        for v in e.value:
            assert published.get(v.name) == v.number, f"{'.'.join(path)}.{v.name}"
            checked += 1
        assert {v.name for v in e.value} == set(published), f"{'.'.join(path)}: values are missing, we would not know their names"
    assert checked > 70


def test_methods(ours, theirs):
    service = next(s for fd in ours.file for s in fd.service)
    published = theirs[service.name]["methods"]
    assert len(service.method) == 17
    for m in service.method:
        p = published[m.name]
        assert m.input_type.endswith("." + p["requestType"]), m.name
        assert m.output_type.endswith("." + p["responseType"]), m.name
        assert m.client_streaming == p.get("requestStream", False) and m.server_streaming == p.get("responseStream", False)
