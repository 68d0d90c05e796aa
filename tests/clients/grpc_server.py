"""A gRPC server without generated code, whose messages are bytes: PORT [AGE]. It counts what it sees, and
`/test.Echo/Seen` tells. It ends connections of that age in milliseconds, as soon as their calls have ended."""

import collections
import json
import sys
import threading
import time
from concurrent import futures

import grpc

LIMIT = 8 * 1024 * 1024
seen = collections.Counter()
lock = threading.Lock()


def count(what):
    with lock:
        seen[what] += 1


def unary(request, context):
    count("requests")
    metadata = dict(context.invocation_metadata())
    if request == b"fail":
        context.set_trailing_metadata((("why", "told to"), ("data-bin", bytes(range(256)))))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "told to fail: häßlich & 100%")
    if "greeting" in metadata:
        context.send_initial_metadata((("greeting-back", metadata["greeting"]),))
        context.set_trailing_metadata((("farewell-bin", metadata["secret-bin"]),))
    return request


def slow(request, context):
    """Answers never: tells how it was ended, and what was left of its time."""
    count("requests")
    remaining = context.time_remaining()
    if remaining is not None and 0 < remaining < 3600:
        count("deadlines seen")
    ended = threading.Event()
    context.add_callback(ended.set)
    if not ended.wait(30):
        count("never ended")
    count("ended by the client")
    return b""


def server_stream(request, context):
    count("requests")
    for number in range(int(request)):
        yield b"%d" % number
    context.set_trailing_metadata((("sent", request.decode()),))


def endless(request, context):
    count("requests")
    context.add_callback(lambda: count("streams ended"))
    number = 0
    while context.is_active():
        yield b"%d" % number
        number += 1
        time.sleep(0.01)


def client_stream(requests, context):
    count("requests")
    return b"".join(requests)


def bidi(requests, context):
    count("requests")
    for request in requests:
        yield b"re: " + request


def tell(request, context):
    count("requests")
    with lock:
        return json.dumps(seen).encode()


handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Seen": grpc.unary_unary_rpc_method_handler(tell),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "Endless": grpc.unary_stream_rpc_method_handler(endless),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
}
options = [("grpc.max_receive_message_length", LIMIT), ("grpc.max_send_message_length", LIMIT)]
if sys.argv[2:]:
    options.append(("grpc.max_connection_age_ms", int(sys.argv[2])))
server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=options)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
server.add_insecure_port(f"0.0.0.0:{sys.argv[1]}")
server.start()
server.wait_for_termination()
