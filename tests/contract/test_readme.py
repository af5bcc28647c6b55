"""The examples of the documents that are programs, run as they stand there."""

import re
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
from standardwebhooks.webhooks import Webhook

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_embedding_example_runs_as_it_stands() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stderr, done.stdout) == ("", "draft → running by me: the rig is warm\n")


def test_the_receiver_of_webhooks_takes_what_is_signed_and_nothing_else() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/webhooks.md").read_text(encoding="utf-8"), re.DOTALL)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = example.replace("whsec_…", SECRET).replace("9000", str(port))
    body, now = '{"type": "run.finished"}', datetime.now(UTC)
    headers = {
        "webhook-id": "a",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("a", now, body),
    }
    with subprocess.Popen([sys.executable, "-u", "-c", program], stdout=subprocess.PIPE, text=True) as receiver:
        try:
            url = f"http://127.0.0.1:{port}/"
            until = time.monotonic() + 20
            while True:
                try:
                    first = httpx.post(url, content=body, headers=headers, trust_env=False)
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < until
                    time.sleep(0.05)
            again = httpx.post(url, content=body, headers=headers, trust_env=False)
            forged = httpx.post(url, content=body + " ", headers=headers, trust_env=False)
        finally:
            receiver.terminate()
        assert receiver.stdout is not None
        told = receiver.stdout.read()
    assert [answer.status_code for answer in (first, again, forged)] == [204, 204, 401]
    assert told == "run.finished\n"
