"""A server of event streams and long polls: PORT EVENTS. Events carry the time at which they were sent, in
nanoseconds since 1970."""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, EVENTS = int(sys.argv[1]), int(sys.argv[2])
EVERY = 0.4

told = threading.Condition()
news = []
waiting = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/events":
            self.events()
        else:
            self.poll()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with told:
            heard = waiting
            news.append(body)
            told.notify_all()
        self.answer(f"told {heard}".encode())

    def events(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for _ in range(EVENTS):
            time.sleep(EVERY)
            self.chunk(f"data: {time.time_ns()}\n\n".encode())
        self.chunk(b"")

    def poll(self):
        global waiting
        with told:
            waiting += 1
            told.wait_for(lambda: news)
            waiting -= 1
        self.answer(news[0])

    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


ThreadingHTTPServer(("0.0.0.0", PORT), Handler).serve_forever()
