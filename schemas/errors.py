"""What can go wrong, by who has to act.

PipelineError
  * RetryableError   the client or the runner tries again
      RateLimited(retry_after_s)   SourceTimeout   SourceUnavailable (BrokenAnswer)   SinkUnavailable
      ProviderUnavailable(may_be_billed)   ProviderTimeout   BadAnswer(tokens_reported)   Parked(retry_after_s)
      LimitReached(retry_after_s, kind)   JobLost   JobFailed
  * RecordError      this record becomes a dead letter, the run goes on
      InvalidPayload   EmptyText   BadVector   EngineFailed (InputRefused)   Flagged   NotModerated
  * SetupError       stop: a person must change something
      BadConfig   MissingFile   TornExport   NotARepository   NoRoom   NotEnoughMemory   PlanExceeded
      AccessRefused (OutOfSight, NotAllowed)   OutOfCredit   BudgetUsedUp   LimitTooSmall
      WrongAddress   PartUnread   QueryRefused   SourceUnreachable   DatabaseUnreachable   ExtensionMissing
      DimensionMismatch   DigestMismatch   ModelNotFound   CanaryMismatch   SpaceMismatch   UnknownName
      MissingTool   WrongVersion   ClusterUnreachable   JobRefused
  * CountsDoNotAddUp   a defect of headrace itself

A message says what was given, what was expected and what to do; it holds no secret and no record text.
Every error is made from keyword-free positional arguments alone, so that it survives pickling between workers.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of everything headrace raises on purpose.

    Its first argument is the message, facts for programs come after it.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class RetryableError(PipelineError):
    """Trying again later may succeed."""


class RateLimited(RetryableError):
    """The far end asked us to wait.

    Args:
        message: who limited what.
        retry_after_s: seconds to wait before the next request, None when the far end did not say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s


class SourceTimeout(RetryableError):
    """A source did not answer in time."""


class SourceUnavailable(RetryableError):
    """A source is out of order for now: the connection fails, or it answers with an error of its own."""


class BrokenAnswer(SourceUnavailable):
    """A source answers, but what it sends is torn, too large or not JSON. Asking for less may succeed."""


class SinkUnavailable(RetryableError):
    """The database went away, deadlocked or refused a serialisable transaction."""


class ProviderUnavailable(RetryableError):
    """A provider is out of order for now: no connection, an error of its own, or half an answer.

    Args:
        message: what happened.
        may_be_billed: False where certainly nothing was computed: a refused connection, a whole answer that says so.
    """

    def __init__(self, message: str, may_be_billed: bool = True) -> None:
        super().__init__(message, may_be_billed)
        self.may_be_billed = may_be_billed


class ProviderTimeout(RetryableError):
    """A provider did not answer in time. It may have billed what was asked."""


class BadAnswer(RetryableError):
    """A provider's answer cannot be right: number or order of vectors, dimensions, NaN, not JSON.

    Args:
        message: what was wrong with it.
        tokens_reported: as it billed the request, None where it did not say.
    """

    def __init__(self, message: str, tokens_reported: int | None = None) -> None:
        super().__init__(message, tokens_reported)
        self.tokens_reported = tokens_reported


class Parked(RetryableError):
    """No endpoint of this embedding space can be asked now. What is parked is tried again by itself.

    Args:
        message: why.
        retry_after_s: seconds until one may answer, None where nobody knows.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s


class LimitReached(RetryableError):
    """A limit of our own leaves no room for a request now.

    Args:
        message: whose limit, where, and which.
        retry_after_s: seconds until there is room.
        kind: `requests_per_minute`, `tokens_per_hour`, `cost_per_day`, `monthly_budget` (requests under way hold what
            is left of it) or `recovery` (shared counts are being restored).
    """

    def __init__(self, message: str, retry_after_s: float, kind: str) -> None:
        super().__init__(message, retry_after_s, kind)
        self.retry_after_s = retry_after_s
        self.kind = kind


class JobLost(RetryableError):
    """A cluster was started anew and knows nothing of a job it had."""


class JobFailed(RetryableError):
    """A job on a cluster ended with an error that is none of headrace's own."""


class RecordError(PipelineError):
    """One record cannot be processed; it becomes a dead letter."""

    retriable = False


class InvalidPayload(RecordError):
    """A record does not have the shape its format promises.

    Args:
        path: where in the record, such as `fields.updated`; never its content.
        expected: what should stand there.
    """

    def __init__(self, path: str, expected: str) -> None:
        super().__init__(path, expected)
        self.path = path
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}"


class EmptyText(RecordError):
    """A record that must have text has none."""


class BadVector(RecordError):
    """An engine gave a vector that may not be stored (NaN, infinity, zero, wrong dimension)."""

    retriable = True


class EngineFailed(RecordError):
    """The engine failed on this record even alone."""

    retriable = True


class InputRefused(EngineFailed):
    """A provider does not take a text, whoever asks it how often. One text of a request is enough for it."""

    retriable = False


class Flagged(RecordError):
    """Moderation found something in a record that is not to be stored."""


class NotModerated(RecordError):
    """Nobody could judge a record, and the configuration lets none pass unjudged."""

    retriable = True


class SetupError(PipelineError):
    """A person must change a setting, a file or a server before a run can succeed."""


class BadConfig(SetupError):
    """The configuration file is not valid."""


class MissingFile(SetupError):
    """A file or folder named in the configuration does not exist."""


class TornExport(SetupError):
    """An export file ends in the middle or is not JSON at all."""


class NotARepository(SetupError):
    """A path given as a git repository is none."""


class NoRoom(SetupError):
    """The disk that headrace writes to is full, or may not be written to."""


class NotEnoughMemory(SetupError):
    """An index could not be built in the memory there is."""


class PlanExceeded(SetupError):
    """A backfill would take more than was planned."""


class AccessRefused(SetupError):
    """A source refuses the credentials, or what they may see."""


class OutOfSight(AccessRefused):
    """A part of a source is gone as a whole, or hidden from the account: nothing can be said of what was in it."""


class NotAllowed(AccessRefused):
    """A source knows the credentials, and they may not see what is asked for; other things they may."""


class OutOfCredit(SetupError):
    """The account with a provider has no credit or quota left."""


class BudgetUsedUp(SetupError):
    """What a client may spend in a month does not pay for another request."""


class LimitTooSmall(SetupError):
    """A limit of our own has no room for a single request."""


class PartUnread(SetupError):
    """Parts of a source could not be read, such as one of its repositories; all the others were, to their end."""


class WrongAddress(SetupError):
    """There is no such API at the configured address, or it holds nothing of what is asked for."""


class QueryRefused(SetupError):
    """A source does not understand, or does not allow, what it is asked."""


class SourceUnreachable(SetupError):
    """No connection can be made to a source: its name, certificate, port or the proxy is wrong."""


class DatabaseUnreachable(SetupError):
    """No Postgres answers at the DSN."""


class ExtensionMissing(SetupError):
    """Postgres answers, but has no pgvector."""


class DimensionMismatch(SetupError):
    """Model and table do not have the same number of dimensions."""


class DigestMismatch(SetupError):
    """A model file is not the pinned one."""


class ModelNotFound(SetupError):
    """A model is not in any place it was looked for."""


class CanaryMismatch(SetupError):
    """A loaded engine does not give the known vectors of its space."""


class SpaceMismatch(SetupError):
    """A query or index belongs to another embedding space."""


class UnknownName(SetupError):
    """A client, source, index or model of that name is not known."""


class MissingTool(SetupError):
    """A program or part that a runner needs is not installed: Java, Go, Flink, Prism."""


class WrongVersion(SetupError):
    """A program or server has a version that does not go with the pinned others."""


class ClusterUnreachable(SetupError):
    """A cluster, or the workers beside it, do not answer."""


class JobRefused(SetupError):
    """A cluster does not do what is asked of a job: it is not there, has ended, or cannot be saved."""


class CountsDoNotAddUp(PipelineError):
    """Records read and records accounted for differ: a defect of headrace."""
