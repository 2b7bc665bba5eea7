"""kmsd-front between a stock gRPC client and a stock gRPC server (Python's, the same C core as ours): honest traffic is
never policed, callers are told apart by their connection's name, and a drain under load loses no call."""
import concurrent.futures
import threading

import grpc
import pytest
from harness import PATIENCE, Front, until


class Echo(grpc.GenericRpcHandler):
    def __init__(self):
        self.peers, self.count = set(), 0

    def service(self, details):
        def one(request, context):
            self.peers.add(context.peer())
            self.count += 1
            if request == b"slow":  # until its caller has gone
                gone = threading.Event()
                if context.add_callback(gone.set):
                    gone.wait(PATIENCE)
            return request

        def many(requests, context):
            yield from requests
        if details.method == "/echo/One":
            return grpc.unary_unary_rpc_method_handler(one)
        if details.method == "/echo/Many":
            return grpc.stream_stream_rpc_method_handler(many)
        return None


@pytest.fixture
def world():
    with Front() as f:
        f.core.listener.close()
        (f.dir / "core.sock").unlink()
        echo = Echo()
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), (echo,), options=[
            ("grpc.max_concurrent_streams", 100), ("grpc.http2.max_frame_size", 16384), ("grpc.http2.bdp_probe", 0)])  # as our core
        server.add_insecure_port(f"unix:{f.dir}/core.sock")
        server.start()
        yield f, echo
        server.stop(0).wait()


def channel(f, number=0):
    creds = grpc.ssl_channel_credentials(f.server_cert[0].read_bytes(), f.client_cert[1].read_bytes(),
                                         f.client_cert[0].read_bytes())
    return grpc.secure_channel(f"127.0.0.1:{f.port}", creds, options=[
        ("grpc.ssl_target_name_override", "localhost"), ("n", number), ("grpc.use_local_subchannel_pool", 1)])


def test_calls_streams_and_names(world):
    f, echo = world
    with channel(f) as c:
        one = c.unary_unary("/echo/One")
        assert one(b"x" * 200_000, timeout=PATIENCE) == b"x" * 200_000
        for _ in range(300):
            assert one(b"tiny", timeout=PATIENCE) == b"tiny"
        pending = [one.future(b"%d" % i, timeout=PATIENCE) for i in range(1500)]
        assert [p.result() for p in pending] == [b"%d" % i for i in range(1500)]
        many = c.stream_stream("/echo/Many")
        assert list(many(iter([b"", b"a"] * 800), timeout=PATIENCE)) == [b"", b"a"] * 800
        bulk = [b"y" * 60_000] * 100
        assert list(many(iter(bulk), timeout=PATIENCE)) == bulk
        with pytest.raises(grpc.RpcError) as e:
            c.unary_unary("/echo/None")(b"", timeout=PATIENCE)
        assert e.value.code() == grpc.StatusCode.UNIMPLEMENTED
    (ident,), (peer,) = f.core.new, echo.peers
    assert peer == f"unix-abstract:clv-{ident.hex()}"
    until(lambda: f.core.closed == [ident], what="CONN_CLOSED")
    assert f.core.stats[-1][3] == 0 if f.core.stats else True


def test_deadlines_of_an_honest_client_are_no_attack(world):
    f, _ = world
    with channel(f) as c:
        one = c.unary_unary("/echo/One")
        late = [one.future(b"slow", timeout=0.05) for _ in range(100)]
        for p in late:
            with pytest.raises(grpc.RpcError):
                p.result()
        assert one(b"after", timeout=PATIENCE) == b"after"
    assert len(f.core.new) == 1


def test_a_drain_under_load_loses_no_call(world):
    f, echo = world
    failed, done, stop = [], [0], threading.Event()
    with channel(f) as c:
        one = c.unary_unary("/echo/One")

        def load():
            while not stop.is_set():
                try:
                    assert one(b"x", timeout=PATIENCE) == b"x"
                    done[0] += 1
                except grpc.RpcError as e:
                    # once the front has gone nobody listens: that is the end of the test, not a lost call
                    if f.alive():
                        failed.append(e)
                    return
        threads = [threading.Thread(target=load) for _ in range(4)]
        for t in threads:
            t.start()
        until(lambda: done[0] > 200, what="load")
        f.drain()
        assert f.proc.wait(PATIENCE) == 0
        stop.set()
        f.listener.close()
        for t in threads:
            t.join()
    assert not failed, failed[0]
    assert echo.count == done[0]
