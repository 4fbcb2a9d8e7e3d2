"""What a post brings back: a Response for each request, the callbacks that get it,
all Documents in one array.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from zflow import errors
from zflow.documents.document import DocumentArray

log = logging.getLogger("zflow")


@dataclass(frozen=True)
class Status:
    """Whether a request has succeeded, as Jina says it.

    Attributes:
        code: `Status.SUCCESS` or `Status.ERROR`.
        description: the error's message, or `''`.
    """

    SUCCESS: ClassVar[int] = 0
    ERROR: ClassVar[int] = 1

    code: int = SUCCESS
    description: str = ""


@dataclass(frozen=True)
class Header:
    """What goes before the Documents of a response, as Jina calls it.

    Attributes:
        exec_endpoint: where it was posted.
        status: whether it has succeeded.
    """

    exec_endpoint: str
    status: Status


@dataclass
class Response:
    """What came back for one request: what callbacks get, and `return_responses=True` returns.

    Attributes:
        docs: the Documents; those sent, not changed, if there is an error.
        parameters: those sent; under `'__results__'` what Executors returned as a dict, by replica.
            If shards failed and the results of the others are here all the same, `'__shards__'`
            says so by Executor: `{'shards': 3, 'succeeded': 2, 'failed': {1: why}}`.
        endpoint: where it was posted.
        error: None, or why there is no result.

    For those who come from Jina, `header.status.code`, `header.status.description`,
    `header.exec_endpoint` and `data.docs` say the same.
    """

    __module__ = "zflow"

    docs: DocumentArray
    parameters: dict[str, Any] = field(default_factory=dict)
    endpoint: str = "/"
    error: errors.ZflowError | None = None

    @property
    def header(self) -> Header:
        """`exec_endpoint`, and the `status` with `code` and `description`."""
        error = self.error
        status = Status() if error is None else Status(Status.ERROR, error.message)
        return Header(self.endpoint, status)

    @property
    def data(self) -> Response:
        """What has `docs`: the response itself."""
        return self


Callback = Callable[[Response], Any]


@dataclass
class Callbacks:
    """What to call with each response: `done` with a good one, `error` with a failed one,
    `always` with both. `go_on`: a failed one that goes to no callback is not raised, but kept
    among the responses if the result is those as a `whole`, else logged.
    """

    done: Callback | None = None
    error: Callback | None = None
    always: Callback | None = None
    go_on: bool = False
    whole: bool = False

    @property
    def take_results(self) -> bool:
        """Whether results go to callbacks, and are not collected."""
        return self.done is not None or self.always is not None

    def deliver(self, response: Response) -> None:
        """Call what is to be called.

        Raises:
            ZflowError: the response is a failed one, there is no `error` callback, and it is not
                gone on.
        """
        if response.error is None:
            if self.done is not None:
                self.done(response)
        elif self.error is not None:
            self.error(response)
        if self.always is not None:
            self.always(response)
        if response.error is None or self.error is not None:
            return
        if not self.go_on:
            raise response.error
        if not self.whole:
            why = response.error.message
            log.warning("a request to %r failed and the others go on: %s", response.endpoint, why)

    def keeps(self, response: Response) -> bool:
        """Whether it is part of what a post returns or an iteration yields."""
        return response.error is None or (self.whole and self.go_on)


def ready(info: dict[str, Any]) -> bool:
    """Whether a Flow that told this about itself takes requests,
    and has a replica of every Executor.
    """
    executors = info.get("executors")
    if info.get("closing") or not isinstance(executors, dict):
        return False
    return all(
        isinstance(executor, dict) and executor.get("replicas") for executor in executors.values()
    )


def changed(result: dict[str, Any]) -> dict[str, Any]:
    """What came of a command.

    Raises:
        ChangeRefused: the Flow says why not.
    """
    if "error" in result:
        why = result["error"]
        raise errors.ChangeRefused(why if isinstance(why, str) else "the Flow does not say why")
    return result


def together(responses: list[Response]) -> DocumentArray:
    """The Documents of all responses in one array."""
    if len(responses) == 1:
        return responses[0].docs
    return DocumentArray(doc for response in responses for doc in response.docs)
