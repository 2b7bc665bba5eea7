"""Import first, from build/<flavour>/pygen on sys.path: makes google.cloud, google.rpc, grpc.health and grpc.reflection
importable from this folder, although the packages google and grpc themselves come from the distribution."""
import os
import sys

import grpc
import google.protobuf

_here = os.path.dirname(os.path.abspath(__file__))
for _name in ("google", "grpc"):
    _package = sys.modules[_name]
    _path = os.path.join(_here, _name)
    if _path not in _package.__path__:
        try:
            _package.__path__.append(_path)
        except AttributeError:  # a namespace package without a list of its own
            _package.__path__ = list(_package.__path__) + [_path]
