"""A verb of another package that answers questions for this process, one line of JSON each; its models stay loaded."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from common.errors import UserError


class Helper:
    """The running verb `python -m WORDS`, a context manager that ends it.

    facts: what the verb says about itself before the first question.
    """

    def __init__(self, *words: str):
        self.name = " ".join(words[:2])
        command = [sys.executable, "-m", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lock = threading.Lock()
        self.facts: dict[str, Any] = self._read()

    def ask(self, **question: Any) -> Any:
        """The answer to a question.

        Raises:
            UserError: as the verb raises it, or if the verb has ended.
        """
        with self.lock:
            assert self.process.stdin is not None
            with suppress(BrokenPipeError):  # reading says that the verb has ended
                self.process.stdin.write(json.dumps(question) + "\n")
                self.process.stdin.flush()
            return self._read()

    def __enter__(self) -> "Helper":
        return self

    def __exit__(self, *error: object) -> None:
        """End the verb."""
        self.process.terminate()
        with suppress(BrokenPipeError):
            self.process.communicate()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"`{self.name}` has ended with code {self.process.wait()}; its message is above.")
        answer = json.loads(line)
        if "error" in answer:
            raise UserError(answer["error"])
        return answer["answer"]


def answer_lines(facts: dict[str, Any], answer: Callable[..., Any]) -> None:
    """The other end of a `Helper`: print the facts, then `answer(**question)` for each line of stdin."""
    print(json.dumps({"answer": facts}), flush=True)
    for line in sys.stdin:
        try:
            result = {"answer": answer(**json.loads(line))}
        except UserError as error:
            result = {"error": str(error)}
        print(json.dumps(result), flush=True)
