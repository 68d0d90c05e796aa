"""What a client of RabbitMQ does, checked as it goes: HOST PORT SECONDS-OF-IDLENESS."""

import sys
import time

import pika
from pika.exceptions import ChannelClosedByBroker

MESSAGES = 2000
LARGE = 10 * 1024 * 1024

host, port, idle = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])


def connect(heartbeat=60):
    return pika.BlockingConnection(
        pika.ConnectionParameters(host, port, heartbeat=heartbeat, socket_timeout=20)
    )


def await_broker():
    """The port is open a moment before there are users."""
    until = time.monotonic() + 30
    while True:
        try:
            return connect()
        except pika.exceptions.AMQPConnectionError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


sender = await_broker()
channel = sender.channel()
channel.queue_declare("work")
channel.confirm_delivery()
for number in range(MESSAGES):
    # Returns when the broker has confirmed it, and raises where it refuses.
    channel.basic_publish("", "work", f"message {number}".encode(), mandatory=True)
# The broker's own count.
assert channel.queue_declare("work", passive=True).method.message_count == MESSAGES

receiver = connect()
inbox = receiver.channel()
inbox.basic_qos(prefetch_count=100)
seen = []
for method, _, body in inbox.consume("work", inactivity_timeout=20):
    assert method, f"nothing more after {len(seen)}"
    inbox.basic_ack(method.delivery_tag)
    seen.append(body)
    if len(seen) == MESSAGES:
        break
assert seen == [f"message {number}".encode() for number in range(MESSAGES)]
inbox.cancel()
assert inbox.queue_declare("work", passive=True).method.message_count == 0

large = bytes(range(256)) * (LARGE // 256)
channel.basic_publish("", "work", large)
_, _, body = inbox.basic_get("work", auto_ack=True)
assert body == large, f"{len(body or b'')} bytes"

# Heartbeats both ways keep it, more often than once in the time that is waited.
beating = connect(heartbeat=2)
until = time.monotonic() + idle
while time.monotonic() < until:
    beating.process_data_events(time_limit=0.5)
beating.channel().queue_declare("work", passive=True)
# Those without a beat in this time are there as well.
sender.process_data_events()
channel.queue_declare("work", passive=True)

try:
    inbox.queue_declare("nowhere", passive=True)
    raise AssertionError("a queue that is not there")
except ChannelClosedByBroker as closed:
    assert closed.reply_code == 404, closed

for connection in (sender, receiver, beating):
    connection.close()
print(f"pika {pika.__version__}: {MESSAGES} confirmed and consumed, one of {LARGE} bytes")
