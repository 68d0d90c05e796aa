"""A server of WebSockets: PORT. What comes is sent back; some words have it do something else."""

import asyncio
import http
import json
import sys

from websockets.asyncio.server import serve

LIMIT = 32 * 1024 * 1024
handshakes = 0
messages = 0
pings = 0


async def converse(connection):
    global messages, pings
    async for message in connection:
        messages += 1
        if message == "ping me":
            await asyncio.wait_for(await connection.ping(b"are you there"), 10)
            pings += 1
            await connection.send("you are")
        elif message == "close":
            await connection.close(4321, "told to close")
        elif message == "vanish":
            connection.transport.abort()
        elif message == "fragments":
            await connection.send(iter_fragments(["one ", "two ", "three"]))
        elif message == "seen":
            counts = {"requests": handshakes, "messages": messages, "pings": pings}
            await connection.send(json.dumps(counts))
        else:
            await connection.send(message)


async def iter_fragments(parts):
    for part in parts:
        await asyncio.sleep(0.05)
        yield part


def before(connection, request):
    global handshakes
    handshakes += 1
    if request.path == "/refused":
        return connection.respond(http.HTTPStatus.FORBIDDEN, "not you\n")
    return None


async def main():
    async with serve(
        converse,
        "0.0.0.0",
        int(sys.argv[1]),
        process_request=before,
        max_size=LIMIT,
        subprotocols=["v2.echo", "v1.echo"],
    ):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
