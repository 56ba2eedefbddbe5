"""An agent asks to read another's notes; a person, here a second thread, says yes.

    AIOSD_SOCKET=… python sdk/examples/ask_a_person.py
A person would type: aiosctl approvals watch, and then aiosctl approvals approve REQUEST.
"""

from __future__ import annotations

import threading

from aios_sdk import Client, Denied


def answer(person: Client, ready: threading.Event) -> None:
    """What the person at the shell does."""
    for requests in person.access.watch():
        ready.set()
        for request in requests:
            print(f"{request['agent']} wants to {request['act']}: {request['reason']}")
            person.access.approve(request["request"])
            return


def main() -> None:
    with Client(agent="ada") as ada, Client(agent="bob") as bob, Client(agent="aiosctl") as person:
        note = ada.memory.add("The key is under the mat.")
        try:
            bob.memory.get(note)
        except Denied as error:
            print("denied:", error)
        ready = threading.Event()
        answering = threading.Thread(target=answer, args=(person, ready))
        answering.start()
        ready.wait()
        bob.access.request("read", target="memory:ada", reason="to find the key", wait=True)
        print("now:", bob.memory.get(note)["content"])
        answering.join()
        ada.memory.delete(note)


if __name__ == "__main__":
    main()
