"""What a client of gRPC does, checked as it goes: HOST PORT SECONDS-OF-IDLENESS. Prints what the server has
counted."""

import json
import queue
import sys
import time

import grpc

LIMIT = 8 * 1024 * 1024
LARGE = bytes(range(256)) * (3 * 1024 * 1024 // 256)
TOGETHER = 500

host, port, idle = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
channel = grpc.insecure_channel(
    f"{host}:{port}",
    options=[
        ("grpc.max_receive_message_length", LIMIT),
        ("grpc.max_send_message_length", LIMIT),
        ("grpc.enable_retries", 0),
    ],
)
unary = channel.unary_unary("/test.Echo/Unary")
slow = channel.unary_unary("/test.Echo/Slow")
seen = channel.unary_unary("/test.Echo/Seen")
asked = 0


def call(method, *args, **kwargs):
    global asked
    asked += 1
    return method(*args, **kwargs)


def fails(code, method, *args, **kwargs):
    try:
        call(method, *args, **kwargs)
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError(f"{code} was wanted")


assert call(unary, b"hello", timeout=20) == b"hello"
assert call(unary, b"", timeout=20) == b""
assert call(unary, LARGE, timeout=30) == LARGE

metadata = (("greeting", "good day"), ("secret-bin", bytes(range(256))))
answer, rpc = call(unary.with_call, b"x", metadata=metadata, timeout=20)
assert dict(rpc.initial_metadata())["greeting-back"] == "good day"
assert dict(rpc.trailing_metadata())["farewell-bin"] == bytes(range(256))

error = fails(grpc.StatusCode.FAILED_PRECONDITION, unary, b"fail", timeout=20)
assert error.details() == "told to fail: häßlich & 100%", error.details()
trailers = dict(error.trailing_metadata())
assert (trailers["why"], trailers["data-bin"]) == ("told to", bytes(range(256)))
error = fails(grpc.StatusCode.UNIMPLEMENTED, channel.unary_unary("/test.Echo/None"), b"", timeout=20)
asked_of_nobody = 1

stream = call(channel.unary_stream("/test.Echo/ServerStream"), b"1000", timeout=30)
assert [int(part) for part in stream] == list(range(1000))
assert dict(stream.trailing_metadata())["sent"] == "1000"
parts = [b"%d," % number for number in range(1000)]
assert call(channel.stream_unary("/test.Echo/ClientStream"), iter(parts), timeout=30) == b"".join(parts)

# Each is said when the answer to the one before has come, and the call is idle for a time.
words = queue.Queue()
talk = call(channel.stream_stream("/test.Echo/Bidi"), iter(words.get, None))
for number in range(100):
    words.put(b"%d" % number)
    assert next(talk) == b"re: %d" % number
time.sleep(idle)
words.put(b"still there")
assert next(talk) == b"re: still there"
words.put(None)
assert list(talk) == []
assert talk.code() == grpc.StatusCode.OK

begin = time.monotonic()
fails(grpc.StatusCode.DEADLINE_EXCEEDED, slow, b"", timeout=0.5)
assert time.monotonic() - begin < 5, "a deadline that came late"
cancelled = call(slow.future, b"")
time.sleep(0.5)
cancelled.cancel()
endless = call(channel.unary_stream("/test.Echo/Endless"), b"")
assert [int(next(endless)) for _ in range(20)] == list(range(20))
endless.cancel()

together = [call(unary.future, b"%d" % number, timeout=60) for number in range(TOGETHER)]
assert [int(future.result()) for future in together] == list(range(TOGETHER))

until = time.monotonic() + 20
while True:
    counts = json.loads(call(seen, b"", timeout=20))
    ended = counts.get("ended by the client", 0), counts.get("streams ended", 0)
    if ended == (2, 1):
        break
    assert time.monotonic() < until, f"the server was not told of the ends: {counts}"
    time.sleep(0.1)
assert counts.get("never ended", 0) == 0, counts
assert counts["deadlines seen"] == 1, counts
assert counts["requests"] == asked - asked_of_nobody, (counts, asked)
print(json.dumps({"grpcio": grpc.__version__, **counts, "requests": asked}))
channel.close()
