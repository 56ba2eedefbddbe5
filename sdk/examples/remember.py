"""An agent that remembers: it keeps what it is told, finds it by meaning, and answers with it.

AIOSD_SOCKET=… python sdk/examples/remember.py
"""

from __future__ import annotations

from aios_sdk import Client

FACTS = {
    "The user's name is Ada and she lives in Lisbon.": ["user"],
    "Ada drinks green tea in the morning, never coffee.": ["user", "habit"],
    "The backups run at three in the night, on Sundays.": ["work"],
}


def main(socket: str | None = None) -> None:
    with Client(socket, agent="remember") as client:
        ids = [client.memory.add(fact, tags=tags) for fact, tags in FACTS.items()]
        found = client.memory.search("What does she like for breakfast?", k=1, tags=["user"])
        print(f"by {found['mode']}: {found['results'][0]['content'] if found['results'] else '-'}")
        answer = client.ask(
            "What does Ada drink in the morning?",
            recall={"k": 1, "tags": ["user"]},
            temperature=0,
            max_tokens=40,
        )
        print(f"with {len(answer.recalled or ())} notes recalled: {answer.text}")
        client.memory.update(ids[1], content="Ada drinks coffee now.")
        print(f"it remembers {client.memory.stats()['notes']} notes")
        for id_ in ids:
            client.memory.delete(id_)


if __name__ == "__main__":
    main()
