"""Short calls without a pause, and long ones beside them: HOST PORT SECONDS. Nothing is tried twice here. Prints
what the server has counted."""

import json
import queue
import sys
import threading
import time

import grpc

CALLERS = 4

host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
channel = grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_retries", 0)])
unary = channel.unary_unary("/test.Echo/Unary")
bidi = channel.stream_stream("/test.Echo/Bidi")
until = time.monotonic() + seconds
lock = threading.Lock()
asked = 0
failures = []


def short_calls():
    while time.monotonic() < until:
        assert unary(b"short", timeout=20) == b"short"
        yield


def long_calls():
    """Longer than any connection's age."""
    while time.monotonic() < until:
        words = queue.Queue()
        talk = bidi(iter(words.get, None), timeout=20)
        for number in range(10):
            words.put(b"%d" % number)
            assert next(talk) == b"re: %d" % number
            time.sleep(0.05)
        words.put(None)
        assert list(talk) == []
        yield


def run(calls):
    global asked
    try:
        for _ in calls():
            with lock:
                asked += 1
    except (AssertionError, grpc.RpcError) as error:
        failures.append(error)


threads = [threading.Thread(target=run, args=(calls,)) for calls in [short_calls, long_calls] * CALLERS]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
counts = json.loads(channel.unary_unary("/test.Echo/Seen")(b"", timeout=20))
assert counts["requests"] == asked + 1, (counts, asked)
assert asked > 100, asked
print(json.dumps(counts))
