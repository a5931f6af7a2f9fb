"""Sends each input line to TO. python -m examples.bulk_sender NAME PASSWORD TO [URL]"""

import sys
from concurrent.futures import Future

from examples.command_line import arguments, no_traceback
from jelly import ConnectionLost, JellyClient, RequestError, Sent

name, password, receiver, url = arguments(__doc__, 3)
with no_traceback(), JellyClient.from_url(url) as client:
    client.login(name, password).result()
    lines = [line.rstrip("\n") for line in sys.stdin]
    futures: list[Future[Sent]] = [client.send_message(receiver, line) for line in lines]
    stored = 0
    for line, future in zip(lines, futures, strict=True):
        try:
            future.result()
            stored += 1
        except ConnectionLost as error:
            print("not sent:" if not error.sent else "perhaps sent:", line)
        except RequestError as error:
            print(f"refused: {line} ({error})")
    print(f"{stored} of {len(lines)} stored")
    sys.exit(stored < len(lines))
