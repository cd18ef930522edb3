"""Simulated customers of a gateway: each asks once, and rates whether the answer has the words "The answer is".

```sh
python customers.py http://127.0.0.1:8000 --number 300
```
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import random
import time
import urllib.request
from typing import Any

THINGS = [
    "boats",
    "cats",
    "drops",
    "nuggets",
    "leaves",
    "flakes",
    "nails",
    "figs",
    "owls",
    "threads",
    "grains",
    "maps",
    "bricks",
    "pearls",
    "coins",
    "seeds",
    "feathers",
    "candles",
    "buttons",
    "letters",
    "pebbles",
    "apples",
    "spoons",
    "ribbons",
]


def call(url: str, path: str, content: Any) -> Any:
    """The JSON that a call is answered with."""
    request = urllib.request.Request(
        url + path, json.dumps(content).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def customer(url: str, name: str) -> bool:
    """Ask, and rate: whether the customer was helped."""
    luck = random.Random(name)
    first, second, third, fourth = luck.sample(THINGS, 4)
    question = f"Are there more {first} than {second} where {third} and {fourth} are kept, of {luck.randrange(10**6)}?"
    answer = call(
        url, "/v1/chat/completions", {"user": name, "messages": [{"role": "user", "content": question}]}
    )
    helped = "The answer is" in answer["choices"][0]["message"]["content"]
    call(
        url, "/v1/feedback", {"target": answer["id"], "name": "helpful", "value": helped, "client_key": name}
    )
    return helped


def main() -> None:
    """Let customers come, and say how many were helped."""
    parser = argparse.ArgumentParser(description="Simulated customers of a gateway.")
    parser.add_argument("url", help="address of the gateway, such as http://127.0.0.1:8000")
    parser.add_argument("--number", type=int, default=300, help="how many come")
    config = parser.parse_args()
    names = (f"customer {time.time_ns():x} {n}" for n in itertools.count())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        helped = list(
            pool.map(lambda name: customer(config.url, name), itertools.islice(names, config.number))
        )
    print(f"{sum(helped)} of {len(helped)} customers were helped")


if __name__ == "__main__":
    main()
