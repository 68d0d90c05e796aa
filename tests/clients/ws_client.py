"""What a client of WebSockets does, checked as it goes: HOST PORT SECONDS-OF-IDLENESS. Prints what the server
has counted."""

import asyncio
import functools
import json
import sys

import websockets
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

LARGE = 10 * 1024 * 1024
LIMIT = 32 * 1024 * 1024
MANY = 50

host, port, idle = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
base = f"ws://{host}:{port}"
connect = functools.partial(connect, subprotocols=["v1.echo"])


async def closed(connection):
    try:
        await asyncio.wait_for(connection.recv(), 20)
    except ConnectionClosed as end:
        return end
    raise AssertionError("it is still open")


async def main():
    asked = 0
    for compression in ("deflate", None):
        asked += 1
        async with connect(base, max_size=LIMIT, compression=compression) as connection:
            for message in ("hello", "", "grüß Gott ☃", b"", bytes(range(256)), "x" * 70_000):
                await connection.send(message)
                assert await connection.recv() == message
            large = bytes(range(256)) * (LARGE // 256)
            await connection.send(large)
            assert await connection.recv() == large
            # In pieces, both ways.
            await connection.send(["in ", "pieces"])
            assert await connection.recv() == "in pieces"
            await connection.send("fragments")
            parts = [part async for part in connection.recv_streaming()]
            assert "".join(parts) == "one two three" and len(parts) >= 3, parts
            await asyncio.wait_for(await connection.ping(b"hello?"), 10)
            await connection.send("ping me")
            assert await connection.recv() == "you are"
            # Many under way at once.
            for number in range(1000):
                await connection.send(str(number))
            assert [int(await connection.recv()) for _ in range(1000)] == list(range(1000))
            await connection.close(4000, "enough")
            assert connection.close_code == 4000, connection.close_code

    asked += 1
    # No pings of its own: nothing at all is said for a time.
    async with connect(base, ping_interval=None) as connection:
        assert connection.subprotocol == "v1.echo"
        await asyncio.sleep(idle)
        await connection.send("still there")
        assert await connection.recv() == "still there"

    for word, code, reason in (("close", 4321, "told to close"), ("vanish", 1006, "")):
        asked += 1
        connection = await connect(base)
        await connection.send(word)
        end = await closed(connection)
        assert (connection.close_code, connection.close_reason) == (code, reason), end

    asked += 1
    try:
        await connect(f"{base}/refused")
        raise AssertionError("it was let in")
    except InvalidStatus as refusal:
        assert refusal.response.status_code == 403
        assert refusal.response.body == b"not you\n"

    asked += MANY
    together = await asyncio.gather(*(connect(base) for _ in range(MANY)))
    for number, connection in enumerate(together):
        await connection.send(str(number))
    for number, connection in enumerate(together):
        assert await connection.recv() == str(number)
    await asyncio.gather(*(connection.close() for connection in together))

    asked += 1
    async with connect(base) as connection:
        await connection.send("seen")
        counts = json.loads(await connection.recv())
    assert counts["requests"] == asked, (counts, asked)
    assert counts["pings"] == 2, counts
    print(json.dumps({"websockets": websockets.__version__, **counts}))


asyncio.run(main())
