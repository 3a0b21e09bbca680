"""Settings of Gemini, the second annotator, and the model and prompt that they resolve to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from actors.attributes import REASONING_KEY, REASONING_MAX_CHARS, AttributeSchema
from actors.commit.pending import PendingAnnotator
from actors.errors import ConfigError
from actors.fingerprint import fingerprint_of
from actors.gemini.quota.rules import QuotaLimits
from actors.prompt import read_prompt
from actors.settings_section import Section

ANNOTATOR = "gemini"

ID_KEY = "image_id"
"""Key in an answer that repeats the id of the image it describes."""

_ANSWER_VERSION = 1
"""Raise this number when the same model, prompt and settings begin to give different annotations."""


class GeminiPrices(Section):
    """Google's prices in US dollars. They are used only to estimate the cost."""

    input_usd: float = Field(0.30, ge=0, description="Price of a million input tokens.")
    output_usd: float = Field(2.50, ge=0, description="Price of a million output tokens, including thinking.")
    batch_share: float = Field(0.5, ge=0, le=1, description="Share of these prices that batch mode costs.")


class GeminiCameras(Section):
    """Cameras whose crops may be sent to Google."""

    allow: tuple[str, ...] | None = Field(
        None,
        description="Cameras whose crops may be sent. By default, all cameras. If this is set, crops from "
        "frames without a camera are never sent.",
    )
    deny: tuple[str, ...] = Field((), description="Cameras whose crops are never sent.")

    def permits(self, camera: str | None) -> bool:
        """Whether crops from this camera may be sent. None stands for a frame that names no camera."""
        return camera not in self.deny and (self.allow is None or camera in self.allow)


class GeminiBatch(Section):
    """Limits of batch mode."""

    max_requests: int = Field(10_000, ge=1, description="Maximum number of requests per batch job.")
    max_file_bytes: int = Field(
        256 << 20,
        ge=1 << 20,
        le=2 << 30,
        description="Maximum size of a file of requests, in bytes. Its crops are held in memory, and Google "
        "accepts up to 2 GB.",
    )
    max_enqueued_tokens: int = Field(
        3_000_000,
        ge=1,
        description="Maximum number of input tokens in unfinished jobs. Google limits it by model and tier.",
    )
    poll_s: float = Field(60, gt=0, description="Seconds between two checks of a running job.")
    deadline_s: float = Field(
        86_400,
        gt=0,
        description="Seconds after which a job is cancelled. Persons that it has not answered are pending "
        "again.",
    )


class GeminiSettings(Section):
    """Settings of the second annotator. It is off by default because it sends crops of people to Google."""

    enabled: bool = Field(False, description="Whether crops are sent to Gemini.")
    model: str = Field(
        "gemini-2.5-flash",
        pattern=r"^[a-z0-9][a-z0-9.\-]*$",
        description="Name of the model in Google's list. Google retires models, so check the list for its "
        "end date.",
    )
    prompt: str | None = Field(
        None,
        description="Prompt file. By default, the shipped prompts/gemini.txt. {schema} in it is replaced by "
        "the list of attributes.",
    )
    base_url: str = Field("https://generativelanguage.googleapis.com", description="URL of the Gemini API.")
    api_version: str = Field(
        "v1beta", pattern=r"^v\d+(alpha|beta)?\d*$", description="Version of the Gemini API."
    )
    mode: Literal["online", "batch"] = Field(
        "online",
        description="`online` sends single requests. `batch` sends jobs to the Batch API, at half the price "
        "and with answers within a day.",
    )
    requests_per_minute: int = Field(
        10,
        ge=1,
        description="Requests per minute in your project's quota. Look it up at aistudio.google.com/usage.",
    )
    tokens_per_minute: int | None = Field(
        250_000, ge=1000, description="Input tokens per minute in your project's quota. null means no limit."
    )
    requests_per_day: int | None = Field(
        250,
        ge=1,
        description="Requests per day in your project's quota, which resets at midnight Pacific time. null "
        "means no limit.",
    )
    on_daily_quota: Literal["park", "wait"] = Field(
        "park",
        description="What to do when the day's quota is spent. `park` ends the run and leaves the other "
        "persons pending, and `wait` continues after midnight Pacific time.",
    )
    max_in_flight: int = Field(
        1, ge=1, le=256, description="Maximum number of concurrent requests. 1 sends them one by one."
    )
    persons_per_request: int = Field(
        8,
        ge=1,
        le=64,
        description="Maximum number of crops per request. More crops use fewer requests of the quota, but "
        "raise the risk of mix-ups.",
    )
    seed: int = Field(
        0, description="Seed of the order in which crops are combined into requests and sampled."
    )
    timeout_s: float = Field(
        120, gt=0, le=3600, description="Maximum number of seconds to wait for an answer."
    )
    retries: int = Field(
        5,
        ge=0,
        le=100,
        description="How many times a request is sent again if it failed for a temporary reason.",
    )
    retry_max_wait_s: float = Field(
        300,
        gt=0,
        description="Maximum number of seconds to wait before such a retry, unless the server asks for more.",
    )
    temperature: float | None = Field(
        0, ge=0, le=2, description="Randomness of the answers. null leaves it to the model."
    )
    thinking_budget: int | None = Field(
        0,
        ge=-1,
        le=32_768,
        description="Number of tokens that the model may think before it answers, billed as output. 0 turns "
        "thinking off, -1 leaves it to the model, and null sends no budget, for models that don't accept "
        "one.",
    )
    media_resolution: Literal["auto", "low", "medium", "high"] = Field(
        "auto",
        description="Level of detail at which Gemini reads crops. `low` costs 64 tokens per crop but shows "
        "less.",
    )
    max_side_px: int | None = Field(
        384,
        ge=16,
        le=4096,
        description="Longest side of a crop as it is sent, in pixels. Above 384, Google counts up to ten "
        "times the tokens. null sends crops unchanged.",
    )
    answer_tokens: int = Field(
        512, ge=64, le=8192, description="Maximum number of output tokens per person. A longer answer is cut."
    )
    reasoning: bool = Field(False, description="Whether each answer includes a short explanation.")
    max_persons: int | None = Field(
        None, ge=1, description="Maximum number of persons sent per run. null sends all."
    )
    max_cost_usd: float | None = Field(
        None,
        gt=0,
        description="Estimated cost in US dollars at which a run stops sending. null means no limit.",
    )
    policy: Literal["oldest", "random", "least_confident"] = Field(
        "oldest",
        description="Which persons are sent first: those of the oldest shard, a random sample, or those that "
        "SmolVLM is least certain about.",
    )
    audit_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the persons that are drawn at random instead, for audit, if the policy is "
        "`least_confident`.",
    )
    cameras: GeminiCameras = Field(
        default_factory=GeminiCameras, description="Cameras whose crops may be sent."
    )
    prices: GeminiPrices = Field(
        default_factory=GeminiPrices,
        description="Prices in US dollars per million tokens, used to estimate the cost.",
    )
    batch: GeminiBatch = Field(default_factory=GeminiBatch, description="Limits of batch mode.")

    @property
    def quota_limits(self) -> QuotaLimits:
        """The configured quota of the project."""
        return QuotaLimits(self.requests_per_minute, self.tokens_per_minute, self.requests_per_day)

    @field_validator("base_url")
    @classmethod
    def _is_a_plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url must be an http or https URL")
        if parts.username or parts.password or parts.query or parts.fragment:
            # The URL appears in logs and in printed settings.
            raise ValueError(
                "base_url must not contain credentials or a query; set the key in GEMINI_API_KEY"
            )
        return url.rstrip("/")

    @model_validator(mode="after")
    def _a_request_fits(self) -> Self:
        # An image of any size takes at least this many tokens (ai.google.dev/gemini-api/docs/tokens).
        least = self.persons_per_request * (64 if self.media_resolution == "low" else 256)
        if self.tokens_per_minute is not None and least > self.tokens_per_minute:
            raise ValueError(
                f"persons_per_request {self.persons_per_request} needs more than {least} tokens, above "
                f"tokens_per_minute {self.tokens_per_minute}; lower persons_per_request or raise "
                "tokens_per_minute"
            )
        return self


@dataclass(frozen=True, slots=True)
class ResolvedGemini:
    """What a run knows about its requests before it sends the first one.

    Attributes:
        model: Name of the model, as configured.
        prompt: Text of the prompt, with the attributes filled in.
        prompt_sha256: SHA-256 of `prompt`.
        fingerprint: Fingerprint of everything that changes an annotation. The number of crops per request is
            not part of it, so that a change of this number asks about no person again.
    """

    model: str
    prompt: str
    prompt_sha256: str
    fingerprint: str

    @property
    def pending(self) -> PendingAnnotator:
        """The pending annotator, with which a commit records persons that Gemini has not answered yet."""
        return PendingAnnotator(ANNOTATOR, self.model, self.prompt_sha256)


def resolve_gemini(settings: GeminiSettings, schema: AttributeSchema) -> ResolvedGemini:
    """Resolve the model and the prompt once, on the driver, before any work begins.

    Raises:
        ConfigError: The prompt can't be used, or an attribute has the name of the key for an image's id.
    """
    if any(attribute.name == ID_KEY and not attribute.nested for attribute in schema):
        raise ConfigError(
            f"schema.attributes.{ID_KEY}: Gemini's answers use this name already; choose another"
        )
    keys = schema.prompt_text()
    if settings.reasoning:
        keys += f'\n- "{REASONING_KEY}": why, in one sentence of at most {REASONING_MAX_CHARS} characters'
    prompt = read_prompt("gemini.prompt", settings.prompt, "gemini.txt", keys)
    content: dict[str, Any] = {
        "answer": _ANSWER_VERSION,
        "model": settings.model,
        "prompt": prompt.sha256,
        "schema": schema.sha256,
        "temperature": settings.temperature,
        "thinking_budget": settings.thinking_budget,
        "media_resolution": settings.media_resolution,
        "max_side_px": settings.max_side_px,
        "reasoning": settings.reasoning,
    }
    return ResolvedGemini(settings.model, prompt.text, prompt.sha256, fingerprint_of(content))
