"""What a client of Kafka does, checked as it goes: BOOTSTRAP PARTITIONS MESSAGES TOPIC NAMES, of which the last
is JSON that says where the brokers are whose names nobody else resolves. Prints what it has done, as the brokers
are to have counted it."""

import json
import socket
import sys
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

bootstrap, partitions, messages, topic = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
names = json.loads(sys.argv[5])
resolve = socket.getaddrinfo


def resolve_with_names(host, *args, **kwargs):
    return resolve(names.get(host, host), *args, **kwargs)


socket.getaddrinfo = resolve_with_names


def value(number):
    return f"{topic} {number:06} ".encode() * (number % 20 + 1)


producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5, request_timeout_ms=30_000)
sent = [producer.send(topic, value(number), partition=number % partitions) for number in range(messages)]
producer.flush(timeout=60)
for number, future in enumerate(sent):
    metadata = future.get(timeout=10)
    assert metadata.partition == number % partitions, metadata
    assert metadata.offset == number // partitions, metadata
producer.close()

consumer = KafkaConsumer(
    bootstrap_servers=bootstrap,
    group_id=None,
    auto_offset_reset="earliest",
    enable_auto_commit=False,
)
every = [TopicPartition(topic, number) for number in range(partitions)]
consumer.assign(every)
consumer.seek_to_beginning()
got = {}
until = time.monotonic() + 60
while len(got) < messages and time.monotonic() < until:
    for partition, records in consumer.poll(timeout_ms=500).items():
        for record in records:
            number = record.offset * partitions + partition.partition
            assert number not in got, number
            assert record.value == value(number), (number, record.value)
            got[number] = True
assert len(got) == messages, len(got)
ends = consumer.end_offsets(every)
assert sum(ends.values()) == messages, ends
consumer.close()
print(json.dumps({"produced": messages, "consumed": len(got)}))
