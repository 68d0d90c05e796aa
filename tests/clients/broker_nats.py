"""What a client of NATS does, checked as it goes: HOST PORT SECONDS-OF-IDLENESS. Prints what it has done,
as the server is to have counted it."""

import asyncio
import json
import sys
import time

import nats

MESSAGES = 5000
REQUESTS = 200
LARGE = 1024 * 1024

host, port, idle = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
done = {"connections": 0, "published": 0, "published_bytes": 0, "received": 0}


async def connect():
    async def failed(error):
        raise error

    done["connections"] += 1
    return await nats.connect(
        f"nats://{host}:{port}",
        allow_reconnect=False,
        # The library's 2 s are about its own machine, which may be busy.
        connect_timeout=20,
        ping_interval=2,
        error_cb=failed,
    )


async def publish(client, subject, data):
    done["published"] += 1
    done["published_bytes"] += len(data)
    await client.publish(subject, data)


async def settled(client):
    """What the client has asked for has reached the server."""
    # The library may send a ping before the commands that wait; a second one comes after them.
    await client.flush()
    await client.flush()


async def hear(subscription, wanted):
    heard = []
    while len(heard) < wanted:
        heard.append((await subscription.next_msg(timeout=20)).data)
        done["received"] += 1
    return heard


async def main():
    begin = time.monotonic()
    sender = await connect()
    done["first_connect_ms"] = round((time.monotonic() - begin) * 1000)
    receiver = await connect()
    inbox = await receiver.subscribe("news")
    await settled(receiver)
    for number in range(MESSAGES):
        await publish(sender, "news", f"message {number}".encode())
    await settled(sender)
    heard = await hear(inbox, MESSAGES)
    assert heard == [f"message {number}".encode() for number in range(MESSAGES)]

    large = bytes(range(256)) * (LARGE // 256)
    await publish(sender, "news", large)
    assert (await hear(inbox, 1)) == [large]

    async def answer(message):
        done["received"] += 1
        await publish(receiver, message.reply, b"re: " + message.data)

    await receiver.subscribe("questions", cb=answer)
    await settled(receiver)
    for number in range(REQUESTS):
        question = f"{number}".encode()
        done["published"] += 1
        done["published_bytes"] += len(question)
        reply = await sender.request("questions", question, timeout=20)
        done["received"] += 1
        assert reply.data == b"re: " + question

    members = [await connect() for _ in range(3)]
    shares = [await member.subscribe("jobs", queue="workers") for member in members]
    for member in members:
        await settled(member)
    for number in range(300):
        await publish(sender, "jobs", f"{number}".encode())
    await settled(sender)
    for member in members:
        await settled(member)
    counts = [share.pending_msgs for share in shares]
    assert sum(counts) == 300 and all(counts), counts
    jobs = [job for share, count in zip(shares, counts) for job in await hear(share, count)]
    assert sorted(map(int, jobs)) == list(range(300))

    # Its own pings keep it: more than one in the time that is waited.
    await asyncio.sleep(idle)
    await publish(sender, "news", b"still there")
    assert (await hear(inbox, 1)) == [b"still there"]
    for client in (sender, receiver, *members):
        assert client.is_connected
        await client.close()
    print(json.dumps(done))


asyncio.run(main())
